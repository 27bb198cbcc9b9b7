"""The losses by hand, their gradients by finite differences, and twins with a planted defect."""

from __future__ import annotations

import math

import pytest
import torch

from decoding.adaptation.exact_losses import debias_costs, debias_loss, detox_loss, hellinger_gap, kl_loss

ALONE = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
CONTEXT = torch.tensor([[[0.6, 0.4], [0.5, 0.5], [0.5, 0.5]]], dtype=torch.float64)
LAW = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()


def logits(*shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_the_detox_loss_is_the_cross_entropy_of_wanted():
    for odds in (-3.0, 0.0, 2.0):
        unwanted = 1 / (1 + math.exp(-odds))
        assert float(detox_loss(torch.tensor(odds))) == pytest.approx(-math.log(1 - unwanted), rel=1e-6)


def test_the_debias_cost_of_a_token_by_hand():
    (costs,) = debias_costs(CONTEXT, ALONE)
    moved = 0.6 * math.log(0.6 / 0.9) + 0.4 * math.log(0.4 / 0.1)
    own = 0.9 * math.log(2 * 0.9) + 0.1 * math.log(2 * 0.1)
    assert float(costs[0]) == pytest.approx(moved + own / 2)
    assert float(costs[2]) == pytest.approx(0), "a token that says nothing of groups costs nothing"
    assert float(debias_loss(LAW, costs[None])) == pytest.approx(0.5 * float(costs[0]) + 0.3 * float(costs[1]))


def test_costs_are_not_negative_for_any_number_of_groups():
    for groups in (2, 3, 5):
        alone, context = logits(40, groups).softmax(-1), logits(2, 40, groups).softmax(-1)
        assert float(debias_costs(context, alone).min().detach()) > 0
        flat = torch.full((40, groups), 1 / groups, dtype=torch.float64)
        assert float(debias_costs(flat[None], flat).abs().max()) == pytest.approx(0, abs=1e-12)
    # The twin: ½ and log 2 for three groups, as for two, do not vanish where there is no bias.
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert float((third * (2 * third).log()).sum() / 2) < -0.1


def test_the_gap_is_a_difference_of_hellinger_distances():
    groups = torch.tensor([[0.8, 0.0], [0.1, 0.5], [0.1, 0.5]], dtype=torch.float64)
    first = math.sqrt(1 - math.sqrt(0.5 * 0.8) - math.sqrt(0.3 * 0.1) - math.sqrt(0.2 * 0.1))
    second = math.sqrt(1 - math.sqrt(0.3 * 0.5) - math.sqrt(0.2 * 0.5))
    assert float(hellinger_gap(LAW, groups)) == pytest.approx(abs(first - second))
    assert float(hellinger_gap(LAW, groups[:, [1, 1]])) == pytest.approx(0)
    # Of a law that is a group's own, the distance is 0 although rounding may put the overlap above 1.
    assert float(hellinger_gap(groups[:, 1][None].log(), groups)) == pytest.approx(
        math.sqrt(1 - 2 * math.sqrt(0.1 * 0.5)), abs=1e-7
    )


def test_the_divergence_skips_what_the_base_excludes():
    base = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64).log()
    law = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    assert float(kl_loss(law, base)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_gradients_are_those_of_finite_differences():
    costs = debias_costs(CONTEXT, ALONE)
    base = LAW.clone()
    assert torch.autograd.gradcheck(lambda z: detox_loss(z), logits(4))
    assert torch.autograd.gradcheck(lambda z: debias_loss(z.log_softmax(-1), costs), logits(1, 3))
    assert torch.autograd.gradcheck(lambda z: kl_loss(z.log_softmax(-1), base), logits(1, 3))


def test_the_gradient_of_the_divergence_vanishes_at_the_base():
    """So that the KL term acts from the second step on only: at the first the offsets are zero."""
    z = LAW.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kl_loss(z.log_softmax(-1), LAW).sum(), z)
    assert float(gradient.abs().max()) < 1e-15
