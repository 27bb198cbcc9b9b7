"""Token samplers by name, and the small functions that the enumeration of their law replaces."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

from grammars.errors import RequestError
from samplers import trials
from samplers.randomness import Stream
from samplers.token_sampler import choose
from samplers.token_samplers import SAMPLERS, GeometricSampler, LookAheadSampler, row_of, token_sampler
from samplers.token_samplers.geometric import _again, _log_phantoms


def test_samplers_are_made_by_name_with_options() -> None:
    assert token_sampler("awrs") == LookAheadSampler(extra=1)
    assert token_sampler("look_ahead") == LookAheadSampler(extra=4)
    assert token_sampler({"name": "look_ahead", "extra": 8, "max_checks": 99}) == LookAheadSampler(8, max_checks=99)
    assert token_sampler({"name": "geometric"}) == GeometricSampler(2)
    mine = GeometricSampler(5)
    assert token_sampler(mine) is mine
    assert all(token_sampler(name) == token_sampler(name) for name in SAMPLERS)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("greedy", "sampler='greedy' is not known; use one of auto, masked"),
        ({"extra": 3}, "has no name"),
        (7, "is no name"),
        ({"name": "awrs", "rounds": 3}, "sampler 'awrs' has no option 'rounds'; it has extra,"),
        ({"name": "masked", "k": 3}, "it has none"),
        ({"name": "geometric", "rounds": 1}, "rounds=1 must be a whole number of at least 2"),
        ({"name": "top_k", "k": 2.5}, "k=2.5 must be a whole number"),
        ({"name": "look_ahead", "extra": True}, "extra=True must be a whole number"),
        ({"name": "awrs", "switch_after": -1}, "switch_after=-1 must be a whole number of at least 0, or None"),
        ({"name": "auto", "max_checks": 0}, "max_checks=0 must be"),
        ({"name": "look_ahead", "negligible": float("nan")}, "negligible=nan must be a number from 0"),
    ],
)
def test_a_wrong_choice_is_an_error_that_says_what_to_write(choice: object, says: str) -> None:
    with pytest.raises(RequestError) as error:
        token_sampler(choice)  # type: ignore[arg-type]
    assert says in str(error.value)


def test_phantoms_are_geometric() -> None:
    """P(at least n phantoms) = (1-s)^n: as u falls the count steps from n-1 to n where u passes (1-s)^n."""
    for success, n in itertools.product((0.9, 0.5, 0.01, 1e-6), (1, 2, 5)):
        step = (1.0 - success) ** n
        above, below = (_log_phantoms(step * (1 + d), math.log(success)) for d in (1e-9, -1e-9))
        assert round(math.exp(above)) == n - 1 and round(math.exp(below)) == n


def test_phantoms_stay_finite_before_the_unlikeliest_token() -> None:
    assert _log_phantoms(1.0, -50.0) == -math.inf and _log_phantoms(0.5, 0.0) == -math.inf
    for log_success in (-29.9, -30.1, -700.0, -1e4):
        assert _log_phantoms(0.5, log_success) == pytest.approx(math.log(math.log(2)) - log_success, rel=1e-9)


def test_an_accepted_token_comes_again_with_its_share() -> None:
    assert _again(0.3, math.log(0.3 + 1e-12)) and not _again(0.3, math.log(0.3 - 1e-12))
    assert _again(1.0, 0.0) and not _again(1e-300, -math.inf)


@dataclass
class Fixed:
    value: float

    def random(self) -> float:
        return self.value


def test_choose_inverts_the_cdf_of_the_masses() -> None:
    log_masses = np.log([0.1, 0.4, 0.2]) - 500.0
    edges = np.cumsum([0.1, 0.4, 0.2]) / 0.7
    tokens = np.array([7, 8, 9])
    for i, edge in enumerate(edges):
        for uniform, expected in ((edge - 1e-9, i), (edge + 1e-9, i + 1)):
            if expected < 3:
                index, log_sum = choose(Fixed(uniform), tokens, log_masses)  # type: ignore[arg-type]
                assert index == expected and log_sum == pytest.approx(math.log(0.7) - 500.0)


# The order in which the far end of a long row is put.

PROBS = np.array([0.5, 0.3, 0.15, 0.05])


def order_law() -> dict[tuple[int, ...], float]:
    """P(order) of successive sampling."""
    result = {}
    for order in itertools.permutations(range(4)):
        left, chance = 1.0, 1.0
        for token in order:
            chance *= PROBS[token] / left
            left -= PROBS[token]
        result[order] = chance
    return result


def orders_agree(log_probs: np.ndarray, n: int = 6000) -> bool:
    counts = dict.fromkeys(order_law(), 0)
    for seed in range(n):
        tokens, _, _ = trials._in_order(row_of(log_probs, Stream(seed, 0, 0)))
        counts[tuple(tokens)] += 1
    # Bernstein's inequality for a share of mean p: false alarm 1e-6 over the 24 orders together.
    log_term = math.log(2 * 24 / 1e-6)
    return all(
        abs(counts[order] / n - p) <= math.sqrt(2 * p * (1 - p) * log_term / n) + log_term / (3 * n)
        for order, p in order_law().items()
    )


def test_the_far_end_of_a_row_comes_in_the_order_of_successive_sampling() -> None:
    """False alarm <= 1e-6; a twin whose rates are those of a slightly warmer row is caught."""
    assert orders_agree(np.log(PROBS))
    warmer = PROBS**0.8
    assert not orders_agree(np.log(warmer / warmer.sum()))


def test_the_far_end_of_a_row_knows_the_mass_from_each_token_on() -> None:
    logits = np.array([0.0, -1.0, -50.0, -800.0, -2000.0])
    tokens, log_probs, log_before = trials._in_order(row_of(logits, Stream(1, 0, 0)))
    assert sorted(tokens) == [0, 1, 2, 3, 4] and np.allclose(log_probs, logits[tokens])
    for i in range(5):
        assert log_before[i] == pytest.approx(np.logaddexp.reduce(log_probs[i:]))
    assert trials._in_order(row_of(np.full(3, -np.inf), Stream(1, 0, 0))) == ([], [], [])
