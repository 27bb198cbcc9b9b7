"""Bookkeeping of a group: who waits, who dies, who is copied from whom. No model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from decoding.groups import Group, Status
from decoding.member import Member
from decoding.row_sampler import Post
from grammars.errors import RequestError

EOS = 0


def member(**changes: Any) -> Member:
    fields: dict[str, Any] = {
        "group": "g",
        "particle": 0,
        "num_particles": 4,
        "constraint": None,
        "sampler": "auto",
        "temperature": 1.0,
        "seed": 5,
        "max_tokens": 8,
    }
    return Member(**{**fields, **changes})


def post(group: Group, particle: int, token: int, log_weight: float = 0.0, **more: Any) -> None:
    position = len(group.tokens[particle])
    group.post(particle, Post(position, token, log_weight, -1.0, 2, 1, is_eos=token == EOS, **more))


def test_a_group_that_may_resample_waits_for_all_its_particles():
    group = Group(member())
    for particle in range(3):
        post(group, particle, 7)
        assert not group.ready and group.holds(particle)
    assert not group.holds(3)
    post(group, 3, 9)
    assert group.ready
    group.commit()
    assert group.tokens == [[7], [7], [7], [9]]
    assert not any(group.holds(particle) for particle in range(4))


def test_importance_sampling_waits_for_nobody():
    group = Group(member(ess_threshold=0.0))
    post(group, 2, 7, -1.5)
    assert group.ready and not group.holds(2)
    group.commit()
    assert group.tokens == [[], [], [7], []]
    assert group.population.log_weights.tolist() == [0.0, 0.0, -1.5, 0.0]


def test_resampling_copies_text_and_status_and_asks_for_forks_of_live_particles_only():
    group = Group(member())
    for particle, (token, weight) in enumerate([(7, 0.0), (EOS, -20.0), (8, -20.0), (9, -20.0)]):
        post(group, particle, token, weight)
    step = group.commit()
    # All weight is on particle 0: everyone becomes it, the finished particle among them.
    assert group.tokens == [[7]] * 4 and group.live == [0, 1, 2, 3]
    assert dict(step.forks) == {1: 0, 2: 0, 3: 0} and step.retired == ()
    assert group.ancestry == [(1, [0, 0, 0, 0])]
    assert np.ptp(group.population.log_weights) == 0.0
    assert group.population.log_z == pytest.approx(math.log((1 + 3 * math.exp(-20.0)) / 4))


def test_a_live_particle_that_copies_a_finished_one_is_retired():
    group = Group(member())
    for particle, (token, weight) in enumerate([(EOS, 0.0), (7, -20.0), (8, -20.0), (9, -20.0)]):
        post(group, particle, token, weight)
    step = group.commit()
    assert group.finished and set(step.retired) == {0, 1, 2, 3} and step.forks == ()
    assert group.status == [Status.STOP] * 4 and group.tokens == [[]] * 4


def test_dead_particles_leave_and_their_rejected_token_is_not_text():
    group = Group(member(num_particles=1))
    post(group, 0, 7)
    group.commit()
    post(group, 0, 9, -math.inf)
    assert group.commit().retired == (0,)
    assert group.finished and group.status == [Status.DEAD] and group.tokens == [[7]]
    assert group.summary()["log_z"] == -math.inf


def test_a_text_cut_at_max_tokens_is_kept_as_a_prefix():
    group = Group(member(num_particles=1, max_tokens=2, truncate=True))
    for token in (7, 8):
        post(group, 0, token)
        group.commit()
    assert group.finished and group.status == [Status.LENGTH] and group.tokens == [[7, 8]]


def test_an_error_of_one_particle_ends_its_group():
    group = Group(member(num_particles=2, ess_threshold=0.0))
    post(group, 1, EOS, -math.inf, error=("PredicateError", "it raised"))
    group.commit()
    assert group.finished and group.summary()["error"] == ("PredicateError", "it raised")


def test_a_token_for_another_place_is_caught():
    group = Group(member())
    with pytest.raises(AssertionError, match="another place"):
        group.post(0, Post(3, 7, 0.0, -1.0, 1, 0))


def test_a_member_survives_its_way_through_extra_args():
    sent = member(constraint='{"regex": "a+"}', sampler={"name": "awrs"}, resample_every=3, stream=True)

    class Params:
        extra_args = sent.extra_args()

    assert Member.of(Params()) == sent
    assert Member.of(object()) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"num_particles": 0}, "particle=0"),
        ({"particle": 4}, "particle=4"),
        ({"sampler": "greedy"}, "sampler='greedy'"),
        ({"resampling": "never"}, "never"),
        ({"ess_threshold": 2.0}, "ess_threshold=2.0"),
        ({"seed": -1}, "seed=-1"),
        ({"resample_every": 0}, "resample_every=0"),
    ],
)
def test_a_field_out_of_range_is_named(changes: dict[str, Any], named: str):
    with pytest.raises(RequestError) as caught:
        member(**changes).check()
    assert named in str(caught.value)
