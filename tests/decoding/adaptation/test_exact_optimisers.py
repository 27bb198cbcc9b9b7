"""One step each, against torch's own Adam and a dense solution of the natural gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from decoding.adaptation.exact_optimisers import DAMPING, OPTIMISERS, Adam, Geometry, Natural, Sign

GRADIENT = torch.tensor([[0.5, -2.0, 0.0], [1e-3, 0.0, -7.0]], dtype=torch.float64)


def matrices(rank: int, size: int = 6) -> Tensor:
    """Fisher matrices of two rows, of a rank: float64 [2, size, size]"""
    torch.manual_seed(1)
    factor = torch.randn(2, size, rank, dtype=torch.float64)
    return factor @ factor.transpose(1, 2)


def quadratic(fisher: Tensor, times: float = 1.0) -> Geometry:
    """Laws whose divergence is d·F d / 2 exactly, or so many times that."""
    return Geometry(product(fisher), lambda change: times * (change * product(fisher)(change)).sum(dim=1) / 2)


def product(fisher: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: (fisher @ v[..., None])[..., 0]


def test_sign_takes_steps_of_one_length():
    assert Sign(0.06).change(GRADIENT).tolist() == (-0.06 * GRADIENT.sign()).tolist()


def test_adam_is_torchs_adam_step_by_step():
    torch.manual_seed(0)
    values = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    theirs, ours, own = torch.optim.Adam([values], lr=0.06), Adam(0.06), torch.zeros(2, 3, dtype=torch.float64)
    for _ in range(4):
        values.grad = torch.randn(2, 3, dtype=torch.float64)
        theirs.step()
        own = own + ours.change(values.grad)
        assert own.numpy() == pytest.approx(values.detach().numpy(), abs=1e-12)


def test_the_first_step_of_adam_is_that_of_sign():
    assert Adam(0.06).change(GRADIENT).numpy() == pytest.approx(Sign(0.06).change(GRADIENT).numpy(), abs=1e-6)


@pytest.mark.parametrize("rank", [6, 2])
def test_a_natural_step_solves_the_damped_system_and_costs_its_kl(rank: int):
    """Exactly so in six dimensions, where eight conjugate gradients are enough."""
    fisher = matrices(rank)
    gradient = torch.randn(2, 6, dtype=torch.float64)
    change = Natural(0.06).change(gradient, quadratic(fisher))
    assert (change * product(fisher)(change)).sum(dim=1).numpy() == pytest.approx(2 * 0.06, rel=1e-9)
    for row in range(2):
        unit = gradient[row] / gradient[row].norm()
        damped = fisher[row] + DAMPING * float(unit @ fisher[row] @ unit) * torch.eye(6, dtype=torch.float64)
        direction = torch.linalg.solve(damped, -gradient[row])
        assert float(direction @ change[row] / direction.norm() / change[row].norm()) == pytest.approx(1, abs=1e-8)
    # The twin: plain descent of the same KL gains less of the loss.
    plain = -gradient * (0.12 / (gradient * product(fisher)(gradient)).sum(dim=1, keepdim=True)).sqrt()
    if rank == 6:
        assert bool(((change * gradient).sum(dim=1) < (plain * gradient).sum(dim=1)).all())


def test_a_natural_step_is_shortened_to_what_the_law_truly_moves():
    fisher, gradient = matrices(6), torch.randn(2, 6, dtype=torch.float64)
    step = Natural(0.06).change(gradient, quadratic(fisher))
    shortened = Natural(0.06).change(gradient, quadratic(fisher, 16.0))
    assert shortened.numpy() == pytest.approx(step.numpy() / 4)
    within = Natural(0.06).change(gradient, quadratic(fisher, 1.05))
    assert within.numpy() == pytest.approx(step.numpy())


def test_a_natural_step_does_not_depend_on_the_gradients_length():
    fisher = quadratic(matrices(3))
    gradient = torch.randn(2, 6, dtype=torch.float64)
    step = Natural(0.06).change(gradient, fisher)
    assert Natural(0.06).change(gradient * 1e-30, fisher).numpy() == pytest.approx(step.numpy(), rel=1e-6)


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_a_row_without_a_gradient_stays_and_the_others_do_not_notice(name: str):
    fisher = matrices(6)
    gradient = torch.randn(2, 6, dtype=torch.float64)
    gradient[0] = 0
    both = OPTIMISERS[name](0.06).change(gradient, quadratic(fisher))
    alone = OPTIMISERS[name](0.06).change(gradient[1:], quadratic(fisher[1:]))
    assert not bool(both[0].any()) and both[1].numpy() == pytest.approx(alone[0].numpy(), rel=1e-9)


def test_no_learning_rate_is_no_step():
    for name in OPTIMISERS:
        change = OPTIMISERS[name](0.0).change(GRADIENT, quadratic(matrices(3, 3)))
        assert not bool(change.any()), name
