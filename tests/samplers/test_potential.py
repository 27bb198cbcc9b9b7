"""exp(r / T) as a weight: the target by enumeration, its limits, and what cannot be judged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from samplers.population import normalise
from samplers.potential import charge

INF = math.inf


def test_charged_weights_are_those_of_the_tilted_target():
    """Draws of every x with weight p(x) / q(x), charged: the law is p·exp(r/T), normalised, whatever q was."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    rewards, temperature = np.array([0.0, 1.0, -2.0]), 0.7
    target = p * np.exp(rewards / temperature)
    law = q * normalise(charge(np.log(p / q), rewards, temperature))
    assert law / law.sum() == pytest.approx(target / target.sum())


def test_temperature_zero_is_the_limit():
    weights = np.log([0.2, 0.3, 0.1, 0.4])
    rewards = np.array([1.0, 3.0, 3.0, -5.0])
    limit = charge(weights, rewards, 0.0)
    assert limit.tolist() == [-INF, weights[1], weights[2], -INF]
    assert normalise(charge(weights, rewards, 1e-3)) == pytest.approx(normalise(limit))
    assert normalise(charge(weights, rewards, 1e12)) == pytest.approx(normalise(weights))


def test_the_dead_and_the_unjudged_have_no_weight():
    charged = charge(np.array([-INF, 0.0, 0.0]), np.array([100.0, 1.0, math.nan]), 1.0)
    assert charged.tolist() == [-INF, 0.0, -INF]
    assert charge(np.zeros(2), np.full(2, math.nan), 1.0).tolist() == [-INF, -INF]
    assert charge(np.array([-INF]), np.zeros(1), 0.0).tolist() == [-INF]


def test_large_rewards_do_not_overflow():
    assert charge(np.zeros(2), np.array([1e308, -1e308]), 1e-300).tolist() == [0.0, -INF]
