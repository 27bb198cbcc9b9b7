"""One step of tuning a row's offsets, from the gradient of its loss. Rows never mix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BETAS, EPS = (0.9, 0.999), 1e-8
CONJUGATE_GRADIENTS = 8
DAMPING = 0.1
# A natural step that costs more than this many times what it may is shortened, so often at the most.
EXCESS = 1.1
SHORTENINGS = 10


@dataclass(frozen=True)
class Geometry:
    """How far the next-token laws of B rows move with their offsets, from where these are now.

    fisher      v [B, P] -> F v [B, P], F the Fisher information of each row's law
    divergence  change [B, P] -> KL(changed law ‖ law) [B], nats
    """

    fisher: Callable[[Tensor], Tensor]
    divergence: Callable[[Tensor], Tensor]


class Optimiser(Protocol):
    """Made afresh for every token.

    natural  whether it asks for the geometry
    """

    natural: bool

    def change(self, gradient: Tensor, geometry: Geometry | None = None) -> Tensor:
        """What to add to the offsets.

        gradient  [B, P], of each row's loss
        """


class Sign:
    """learning_rate * sign(gradient), downhill."""

    natural = False

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate

    def change(self, gradient: Tensor, geometry: Geometry | None = None) -> Tensor:
        return -self._learning_rate * gradient.sign()


class Adam:
    """Kingma & Ba (2015), without weight decay. Its first step is learning_rate * sign(gradient) but for gradients near 1e-8."""

    natural = False

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._step = 0
        self._mean: Tensor | float = 0.0
        self._square: Tensor | float = 0.0

    def change(self, gradient: Tensor, geometry: Geometry | None = None) -> Tensor:
        self._step += 1
        self._mean = BETAS[0] * self._mean + (1 - BETAS[0]) * gradient
        self._square = BETAS[1] * self._square + (1 - BETAS[1]) * gradient**2
        mean = self._mean / (1 - BETAS[0] ** self._step)
        square = self._square / (1 - BETAS[1] ** self._step)
        return -self._learning_rate * mean / (square.sqrt() + EPS)


class Natural:
    """The steepest descent where length is KL divergence: along (F + damping)^-1 gradient, as far as costs a given KL.

    learning_rate  that KL, nats: the step d has d·F d / 2 = learning_rate, or is shorter where the law's true divergence would
                   be more than a tenth above it. A row of gradient 0 stays.

    Solved by a fixed number of conjugate gradients, damped by a tenth of F's curvature along the gradient: the loss may also
    change along directions that do not change the law to second order, where F is 0, and there is no end to such a step.
    Source: Amari (1998), "Natural gradient works efficiently in learning"; Martens (2010), "Deep learning via Hessian-free
    optimization".
    """

    natural = True

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate

    def change(self, gradient: Tensor, geometry: Geometry | None = None) -> Tensor:
        assert geometry is not None, "a natural step needs the geometry"
        fisher = geometry.fisher
        tiny = torch.finfo(gradient.dtype).tiny
        # A gradient's length does not matter to the step: with length 1 nothing underflows.
        unit = gradient / torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp_min(tiny)
        damping = DAMPING * _dot(unit, fisher(unit)) + tiny
        solution, residual = torch.zeros_like(unit), unit
        direction, length = unit, _dot(unit, unit)
        for _ in range(CONJUGATE_GRADIENTS):
            bent = fisher(direction) + damping * direction
            along = length / _dot(direction, bent).clamp_min(tiny)
            solution, residual = solution + along * direction, residual - along * bent
            shorter = _dot(residual, residual)
            direction = residual + shorter / length.clamp_min(tiny) * direction
            length = shorter
        cost = _dot(solution, fisher(solution))
        step = torch.where(cost > tiny, -solution * (2 * self._learning_rate / cost.clamp_min(tiny)).sqrt(), 0.0)
        for _ in range(SHORTENINGS):
            true = geometry.divergence(step)
            if not bool((true > EXCESS * self._learning_rate).any()):
                break
            shorter = (self._learning_rate / true.clamp_min(tiny)).sqrt().clamp_max(0.9)
            step = torch.where((true > EXCESS * self._learning_rate)[:, None], step * shorter[:, None], step)
        return step


OPTIMISERS: dict[str, Callable[[float], Optimiser]] = {"sign": Sign, "adam": Adam, "natural": Natural}


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)
