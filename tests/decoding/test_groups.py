"""Bookkeeping of a group: who rides where, who waits, who dies, who is copied from whom. No model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from decoding.groups import Fork, Group, Status
from decoding.order import Order
from decoding.row_sampler import Post
from grammars.errors import RequestError

EOS = 0


def order(**changes: Any) -> Order:
    fields: dict[str, Any] = {
        "group": "g",
        "num_particles": 4,
        "constraint": None,
        "sampler": "auto",
        "temperature": 1.0,
        "seed": 5,
        "max_tokens": 8,
    }
    return Order(**{**fields, **changes})


def post(group: Group, row: int, kept: int, *drawn: tuple[int, float], error: tuple[str, str] | None = None) -> None:
    """What the riders of a row drew, in their order: (token, log weight) each."""
    posts = [
        Post(particle, len(group.tokens[particle]), token, weight, -1.0, 2, 1, is_eos=token == EOS, error=error)
        for particle, (token, weight) in zip(group.riders[row], drawn, strict=True)
    ]
    group.post(row, posts, kept)


def test_all_particles_start_on_one_row_and_equal_tokens_stay_together():
    group = Group(order(ess_threshold=0.5))
    assert group.riders == {0: (0, 1, 2, 3)}
    post(group, 0, 7, (7, 0.0), (9, 0.0), (7, 0.0), (9, 0.0))
    step = group.commit()
    assert step.forks == (Fork(row=1, parent=0, token=9),) and step.retired == ()
    assert group.riders == {0: (0, 2), 1: (1, 3)}
    assert group.tokens == [[7], [9], [7], [9]]
    assert (group.sampled, group.computed, group.checks, group.masks) == (4, 1, 8, 1)


def test_a_group_that_may_resample_waits_for_all_its_rows():
    group = Group(order())
    post(group, 0, 7, (7, 0.0), (8, 0.0), (9, 0.0), (7, 0.0))
    group.commit()
    for row in (0, 1):
        post(group, row, 5, *[(5, 0.0)] * len(group.riders[row]))
        assert not group.ready and group.holds(row)
    assert not group.holds(2)
    post(group, 2, 5, (5, 0.0))
    assert group.ready
    group.commit()
    assert group.tokens == [[7, 5], [8, 5], [9, 5], [7, 5]]
    assert not any(group.holds(row) for row in range(3))


def test_importance_sampling_waits_for_nobody():
    group = Group(order(ess_threshold=0.0))
    post(group, 0, 7, (7, -1.5), (8, 0.0), (7, 0.0), (7, 0.0))
    group.commit()
    post(group, 1, 6, (6, -0.5))
    assert group.ready
    group.commit()
    assert group.tokens == [[7], [8, 6], [7], [7]]
    assert group.population.log_weights.tolist() == [-1.5, -0.5, 0.0, 0.0]
    assert group.riders == {0: (0, 2, 3), 1: (1,)}


def test_copies_of_one_particle_ride_on_one_row():
    group = Group(order())
    post(group, 0, 8, (7, 0.0), (9, -20.0), (8, -20.0), (8, -20.0))
    step = group.commit()
    # All weight is on particle 0: everyone becomes it, and nobody goes on with row 0's token.
    assert group.tokens == [[7]] * 4 and group.live == [0, 1, 2, 3]
    assert step.forks == (Fork(row=1, parent=0, token=7),) and step.retired == (0,)
    assert group.riders == {1: (0, 1, 2, 3)}
    assert group.ancestry == [(1, [0, 0, 0, 0])]
    assert np.ptp(group.population.log_weights) == 0.0
    assert group.population.log_z == pytest.approx(math.log((1 + 3 * math.exp(-20.0)) / 4))


def test_live_particles_that_copy_a_finished_one_leave_their_row():
    group = Group(order())
    post(group, 0, 7, (EOS, 0.0), (7, -20.0), (8, -20.0), (9, -20.0))
    step = group.commit()
    assert group.finished and step.retired == (0,) and step.forks == () and group.riders == {}
    assert group.status == [Status.STOP] * 4 and group.tokens == [[]] * 4


def test_of_finished_particles_one_stays_and_the_others_may_copy_a_live_one_and_go_on():
    group = Group(order(num_particles=3, ess_threshold=0.0, resample_every=2))
    post(group, 0, 7, (EOS, -20.0), (EOS, -20.0), (7, 0.0))
    group.commit()
    assert group.riders == {0: (2,)} and group.status == [Status.STOP, Status.STOP, Status.LIVE]
    post(group, 0, 8, (8, 0.0))
    group.commit()
    ((_, parents),) = group.ancestry
    stays, goes_on = (0, 1) if parents[0] == 0 else (1, 0)
    assert parents[stays] == stays and parents[goes_on] == 2
    assert group.tokens[stays] == [] and group.tokens[goes_on] == group.tokens[2] == [7, 8]
    assert group.riders == {0: tuple(sorted((goes_on, 2)))} and group.status[stays] is Status.STOP
    # The one stands for both, the two for the third.
    weights = np.exp(group.population.log_weights)
    assert weights[stays] == pytest.approx(2 * math.exp(-20.0)) and weights[2] == weights[goes_on] == pytest.approx(0.5)


def test_dead_particles_leave_and_their_rejected_token_is_not_text():
    group = Group(order(num_particles=1))
    post(group, 0, 7, (7, 0.0))
    group.commit()
    post(group, 0, EOS, (9, -math.inf))
    assert group.commit().retired == (0,)
    assert group.finished and group.status == [Status.DEAD] and group.tokens == [[7]]
    assert group.summary()["log_z"] == -math.inf


def test_a_text_cut_at_max_tokens_is_kept_as_a_prefix():
    group = Group(order(num_particles=1, max_tokens=2, truncate=True))
    for token in (7, 8):
        post(group, 0, token, (token, 0.0))
        group.commit()
    assert group.finished and group.status == [Status.LENGTH] and group.tokens == [[7, 8]]


def test_an_error_of_one_row_ends_its_group():
    group = Group(order(num_particles=2, ess_threshold=0.0))
    post(group, 0, EOS, (EOS, -math.inf), (EOS, -math.inf), error=("PredicateError", "it raised"))
    group.commit()
    assert group.finished and group.summary()["error"] == ("PredicateError", "it raised")


def test_tokens_for_another_place_or_of_others_are_caught():
    group = Group(order(num_particles=2))
    with pytest.raises(AssertionError, match="another place"):
        group.post(0, [Post(k, 3, 7, 0.0, -1.0, 1, 0) for k in range(2)], 7)
    with pytest.raises(AssertionError, match="not everyone"):
        group.post(0, [Post(1, 0, 7, 0.0, -1.0, 1, 0)], 7)


def test_an_order_survives_its_way_through_extra_args():
    sent = order(constraint='{"regex": "a+"}', sampler={"name": "awrs"}, resample_every=3, stream=True)

    class Params:
        extra_args = sent.extra_args()

    assert Order.of(Params()) == sent
    assert Order.of(object()) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"num_particles": 0}, "num_particles=0"),
        ({"sampler": "greedy"}, "sampler='greedy'"),
        ({"resampling": "never"}, "never"),
        ({"ess_threshold": 2.0}, "ess_threshold=2.0"),
        ({"seed": -1}, "seed=-1"),
        ({"resample_every": 0}, "resample_every=0"),
    ],
)
def test_a_field_out_of_range_is_named(changes: dict[str, Any], named: str):
    with pytest.raises(RequestError) as caught:
        order(**changes).check()
    assert named in str(caught.value)
