"""The closed forms: the I-projection, the natural gradient, the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from decoding.adaptation.served import Change, equalising, log_wanted, natural_offset, within_budget

RNG = np.random.default_rng(0)


def law(size: int) -> torch.Tensor:
    return torch.softmax(torch.from_numpy(RNG.normal(size=size) * 2).float(), 0)


def test_log_wanted_is_the_log_of_one_minus_the_probability():
    odds = np.array([-800.0, -2.0, 0.0, 3.0, 800.0])
    np.testing.assert_allclose(log_wanted(odds)[1:4], np.log(1 - 1 / (1 + np.exp(-odds[1:4]))))
    assert log_wanted(odds)[0] == 0.0
    assert log_wanted(odds)[4] == -800.0


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_equalising_is_the_nearest_law_with_equal_masses(groups: int):
    """Compared with a numerical minimum of KL(q ‖ p) over laws on groups and rest with equal masses of the groups."""
    masses = RNG.dirichlet(np.ones(groups + 1))
    boosted = masses[:groups] * np.exp(equalising(masses[:groups]))
    q = np.append(boosted, masses[groups])
    q /= q.sum()
    np.testing.assert_allclose(q[:groups], q[0])

    def kl(share: np.ndarray) -> float:
        each = 1 / (1 + np.exp(-share[0])) / groups
        r = np.append(np.full(groups, each), 1 - groups * each)
        return float((r * np.log(r / masses)).sum())

    least = minimize(kl, [0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    assert float((q * np.log(q / masses)).sum()) == pytest.approx(least.fun, abs=1e-8)


def test_half_strength_goes_half_the_way():
    np.testing.assert_allclose(equalising([0.4, 0.1], 0.5), equalising([0.4, 0.1]) / 2)
    assert not equalising([0.4, 0.1], 0.0).any()


def test_the_natural_offset_is_the_newton_step_of_the_objective():
    """E_q[y] - KL(q ‖ p) over q = softmax(log p + rows·d): its Newton step at 0 is Fisher^-1 gradient, up to the ridge."""
    rows, masses = torch.from_numpy(RNG.normal(size=(40, 6))).float(), law(40)
    twists = torch.from_numpy(RNG.normal(size=40)).float()
    d = natural_offset(rows, masses, twists).double().numpy()
    p, w, y = masses.double().numpy(), rows.double().numpy(), twists.double().numpy()
    centred = w - p @ w
    fisher, gradient = centred.T @ (p[:, None] * centred), centred.T @ (p * (y - p @ y))
    # The ridge on A·Aᵀ is the same on Aᵀ·A.
    root = np.sqrt(p)[:, None] * centred
    ridge = 0.01 * np.mean((root**2).sum(1))
    np.testing.assert_allclose(d, np.linalg.solve(fisher + ridge * np.eye(6), gradient), rtol=1e-3, atol=1e-4)


def test_an_offset_of_the_hidden_state_carries_over_to_tokens_nobody_scored():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
    d = natural_offset(rows[:2], torch.tensor([0.5, 0.5]), torch.tensor([-2.0, 0.0]))
    assert float(rows[2] @ d) < float(rows[1] @ d) - 1.0


def parts(masses: torch.Tensor, shift: torch.Tensor, moved: int | None = None) -> tuple:
    """The first tokens, their masses and shifts, and the mass of the rest, as a change is told of them."""
    count = len(masses) if moved is None else moved
    p = masses.double().numpy()
    return np.arange(count), p[:count], float(p[count:].sum()), shift.double().numpy()[:count]


def changed(change: Change, masses: torch.Tensor) -> np.ndarray:
    return masses.double().numpy() * np.exp([change.log_ratio(token) for token in range(len(masses))])


@pytest.mark.parametrize("moved", [50, 20, 0])
def test_a_change_says_what_it_does_to_the_law(moved: int):
    masses, shift = law(50), torch.from_numpy(RNG.normal(size=50)).float()
    shift[moved:] = 0.0
    change = Change.of(*parts(masses, shift, moved))
    p = masses.double().numpy()
    q = p * np.exp(shift.double().numpy())
    q /= q.sum()
    np.testing.assert_allclose(changed(change, masses), q, atol=1e-6)
    assert change.kl == pytest.approx(float((q * np.log(q / p)).sum()), abs=1e-6)
    further = Change.of(*parts(masses, shift + 500.0))
    assert further.kl == pytest.approx(change.kl, abs=1e-3)


@pytest.mark.parametrize("moved", [6, 3])
@pytest.mark.parametrize("there", [0.0, 50.0, -300.0])
@pytest.mark.parametrize("elsewhere", [0.0, 120.0, 400.0])
def test_tokens_without_mass_do_not_count_and_stay_without(there: float, elsewhere: float, moved: int):
    """As top_p leaves them: whatever they would gain, the others' law is what it is without them."""
    masses = torch.cat([torch.zeros(4), law(6)])
    shift = torch.cat([torch.full((4,), elsewhere), torch.from_numpy(RNG.normal(size=6)).float() + there])
    change = within_budget(*parts(masses, shift, 4 + moved), 12.0)
    alone = within_budget(*parts(masses[4:], shift[4:], moved), 12.0)
    q = changed(change, masses)
    np.testing.assert_allclose(q[4:], changed(alone, masses[4:]), rtol=1e-6)
    assert not q[:4].any() and float(q.sum()) == pytest.approx(1.0, abs=1e-6)
    assert change.kl == pytest.approx(alone.kl, abs=1e-9)
    # Where all that has mass is moved alike, a token without keeps its part: it does not become likely.
    if moved == 6:
        assert [change.log_ratio(token) for token in range(4)] == [0.0] * 4


@pytest.mark.parametrize("moved", [50, 20])
@pytest.mark.parametrize("budget", [0.0, 0.01, 0.3])
def test_a_budget_is_spent_and_not_exceeded(budget: float, moved: int):
    given = parts(law(50), torch.from_numpy(RNG.normal(size=50) * 5).float(), moved)
    assert Change.of(*given).kl > budget
    assert within_budget(*given, budget).kl == pytest.approx(budget, abs=1e-3)
    assert within_budget(*given, budget).kl <= budget
    assert within_budget(*given, 1e9).log_norm == Change.of(*given).log_norm
