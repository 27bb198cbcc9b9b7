"""Many rows moved at once, in both their forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decoding.adaptation.step_laws import StepLaws, likeliest, likeliest_at_once

RNG = np.random.default_rng(3)
SIZE = 40


def step(temperatures: tuple[float, ...] = (1.0, 0.5)) -> tuple[torch.Tensor, torch.Tensor, StepLaws]:
    """Five rows, of which lines 3 and 1 are adapted; of line 1 half is cut."""
    logits = torch.from_numpy(RNG.normal(size=(5, SIZE)) * 2).float()
    logits[1, ::2] = -torch.inf
    own = torch.ones(5, 1)
    own[[3, 1], 0] = torch.tensor(temperatures)
    # Masses may have columns that logits do not have.
    masses = torch.cat([torch.softmax(logits / own, 1), torch.zeros(5, 3)], 1)
    return logits, masses, StepLaws(logits, masses, [3, 1], np.array(temperatures))


def test_rows_are_moved_in_both_forms_and_no_other_row_is():
    logits, masses, laws = step()
    before, p = logits.clone(), masses.clone()
    shifts = {
        0: (np.array([2, 5, 9]), np.array([-3.0, 1.0, 0.5])),
        1: (np.array([1, 2, 7]), np.array([-2.0, 9.0, 40.0])),
    }
    changes = laws.move(shifts)
    for a, (line, temperature) in enumerate([(3, 1.0), (1, 0.5)]):
        wanted = p[line, :SIZE].double().numpy()
        wanted[shifts[a][0]] *= np.exp(shifts[a][1])
        wanted /= wanted.sum()
        np.testing.assert_allclose(masses[line, :SIZE].numpy(), wanted, atol=1e-6)
        np.testing.assert_allclose(torch.softmax(logits[line] / temperature, 0).numpy(), wanted, atol=1e-6)
        told = p[line, :SIZE].double().numpy() * np.exp([changes[a].log_ratio(token) for token in range(SIZE)])
        np.testing.assert_allclose(told, wanted, atol=1e-6)
    others = [0, 2, 4]
    assert torch.equal(logits[others], before[others]) and torch.equal(masses[others], p[others])


@pytest.mark.parametrize("shift", [-400.0, 400.0])
def test_a_law_that_is_moved_as_a_whole_stays_what_it_is(shift: float):
    """No infinity, and no not-a-number, however far; tokens that are cut stay cut."""
    logits, masses, laws = step()
    p = masses[1, :SIZE].clone()
    (change,) = laws.move({1: (np.arange(SIZE), np.full(SIZE, shift))}).values()
    np.testing.assert_allclose(masses[1, :SIZE], p, atol=1e-6)
    np.testing.assert_allclose(torch.softmax(logits[1] / 0.5, 0), p, atol=1e-6)
    assert change.kl == pytest.approx(0.0, abs=1e-9) and change.log_ratio(0) == change.log_ratio(1) == 0.0


@pytest.mark.parametrize("log_rest", [-75.0, -86.0, -92.0])
def test_what_is_left_of_a_law_may_be_as_small_as_float32_has_it(log_rest: float):
    """All but a shadow of the law is pushed below it: then the shadow is the law, in all that is told of it."""
    logits = torch.zeros(1, SIZE)
    logits[0, 1:] = log_rest - np.log(SIZE - 1)
    masses = torch.softmax(logits, 1)
    laws = StepLaws(logits, masses, [0], np.ones(1))
    (change,) = laws.move({0: (np.array([0]), np.array([log_rest - 2.0]))}).values()
    wanted = np.exp([0.0, -2.0]) / np.exp([0.0, -2.0]).sum()
    rest = float(masses[0, 1:].sum())
    np.testing.assert_allclose([rest, float(masses[0, 0])], wanted, atol=2e-3)
    np.testing.assert_allclose(np.exp(log_rest + change.log_ratio(1)), wanted[0], atol=2e-3)
    np.testing.assert_allclose(float(torch.softmax(logits, 1)[0, 0]), wanted[1], atol=2e-3)


def test_each_row_has_a_budget_of_its_own():
    shifts = {a: (np.array([1, 3, 5]), np.array([6.0, -6.0, 3.0])) for a in (0, 1)}
    free = step()[2].move(shifts)
    held = step()[2].move(shifts, {0: 0.01, 1: 100.0})
    assert held[0].kl == pytest.approx(0.01, abs=1e-4) and min(free[0].kl, held[1].kl) > 0.01


def test_tokens_are_read_row_by_row():
    _, masses, laws = step()
    held = laws.held({1: np.array([4, 1]), 0: np.array([7])})
    np.testing.assert_array_equal(held[1], masses[1, [4, 1]].double())
    np.testing.assert_array_equal(held[0], masses[3, [7]].double())
    assert laws.held({}) == laws.likeliest({}) == laws.move({}) == {}
    np.testing.assert_array_equal(laws.of_mass(1, 0.05), np.flatnonzero(masses[1, :SIZE].numpy() >= 0.05))


@pytest.mark.parametrize("counts", [[3, 8], [1, 39], [40, 1024]])
def test_the_likeliest_are_the_same_row_by_row_and_at_once(counts: list[int]):
    masses = torch.softmax(torch.from_numpy(RNG.normal(size=(2, SIZE)) * 6).float(), 1)
    masses[1, ::3] = 0.0
    for row, count, at_once in zip(masses.numpy(), counts, likeliest_at_once(masses, counts)):
        wanted = {token for token in np.argsort(-row)[:count].tolist() if row[token] > 0}
        assert set(likeliest(row, count).tolist()) == set(at_once.tolist()) == wanted
