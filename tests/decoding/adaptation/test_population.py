"""Groups balanced over a population of texts."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from decoding.adaptation.naming import named_first
from decoding.adaptation.population import balanced, group_shares
from grammars.errors import RequestError
from samplers.population import effective_sample_size, normalise
from tests.decoding.adaptation.test_steering import GENDER, LENGTH, SIZE, VOCABULARY, drawn, enumerated, settings

if TYPE_CHECKING:
    from decoding.engine import Engine

GROUPS = {"gender": ["female", "male"], "age": ["young", "old", "middle"]}


def test_balanced_weights_are_the_nearest_law_with_equal_groups():
    """Against the definition: of all laws on these texts with equal groups none is nearer in KL (Lagrange conditions)."""
    rng = np.random.default_rng(2)
    labels = {
        axis: [[None, *groups][k] for k in rng.integers(0, len(groups) + 1, 60)] for axis, groups in GROUPS.items()
    }
    before = rng.normal(size=60) * 2
    before[7] = -math.inf
    for axes in (["gender"], ["age"], ["gender", "age"]):
        named = {axis: labels[axis] for axis in axes}
        after = balanced(named, before)
        alive = before > -math.inf
        assert np.logaddexp.reduce(after[alive]) == pytest.approx(np.logaddexp.reduce(before[alive]))
        assert after[7] == -math.inf
        for axis, shares in group_shares(named, after, GROUPS).items():
            np.testing.assert_allclose(list(shares.values()), 1 / len(GROUPS[axis]), atol=1e-6)
        # log(after / before) is a sum of one number for each group of each axis, and those of an axis sum to 0.
        columns = [[label == group for label in named[axis]] for axis in axes for group in GROUPS[axis]]
        design = np.array([*columns, [True] * 60], dtype=float).T[alive]
        moved = after[alive] - before[alive]
        fitted, *_ = np.linalg.lstsq(design, moved, rcond=None)
        np.testing.assert_allclose(design @ fitted, moved, atol=1e-6)


def test_with_one_group_or_none_there_is_nothing_to_balance():
    log_weights = np.array([0.0, -1.0, -2.0])
    alone = {"gender": ["female", "female", None]}
    assert balanced(alone, log_weights) is log_weights
    assert group_shares(alone, log_weights, GROUPS) == {"gender": {"female": 1.0, "male": 0.0}}
    assert group_shares({"gender": [None]}, np.zeros(1), GROUPS) == {"gender": {"female": 0.0, "male": 0.0}}


def test_draws_from_the_balanced_law_of_a_token_are_weighted_for_p():
    """E[w·1{event}] is p's, by enumeration, though what is drawn from is balanced. False alarm of 10 tests at |z| 4.5: 7e-5."""
    adapt = settings(detox=0, debias=[GENDER], adaptation={"balance": "population"})
    law = enumerated(settings(detox=0, debias=[GENDER], adaptation={"debias_strength": 0.0}))
    texts, weights = drawn(adapt, 800)
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-4)
    assert weights.std() > 0.1, "nothing was steered: the test would hold of plain draws"
    for event in [lambda text, x=x: text[:1] == (x,) for x in range(SIZE)] + [
        lambda text: len(text) == LENGTH,
        lambda text: True,
    ]:
        exact = sum(mass for text, mass in law.items() if event(text))
        hits = weights * np.array([event(text) for text in texts])
        assert abs(hits.mean() - exact) <= 4.5 * max(hits.std() / math.sqrt(len(hits)), 1e-9)


def test_a_population_comes_near_the_exact_fair_law():
    adapt = settings(detox=0, debias=[GENDER], adaptation={"balance": "population"})
    law = enumerated(settings(detox=0, debias=[GENDER], adaptation={"debias_strength": 0.0}))

    def named(texts):
        return named_first([VOCABULARY.decode(list(text)).decode() for text in texts], adapt["lexicons"])

    every = list(law)
    fair = dict(zip(every, normalise(balanced(named(every), np.log([law[text] for text in every])))))
    texts, weights = drawn(adapt, 800)
    found = normalise(balanced(named(texts), np.log(weights)))
    for x in range(SIZE):
        exact = sum(mass for text, mass in fair.items() if text[:1] == (x,))
        told = sum(weight for text, weight in zip(texts, found) if text[:1] == (x,))
        # A share's standard error is at most 1 / (2 √ESS), and that of the two groups' masses adds as much again.
        assert abs(told - exact) <= 4.5 / math.sqrt(effective_sample_size(np.log(found)))
    before, after = (
        group_shares(named(every), np.log(list(some.values())), GROUPS)["gender"]["male"] for some in (law, fair)
    )
    assert after == pytest.approx(0.5, abs=1e-6) and abs(before - 0.5) > 0.05


@pytest.mark.engine
def test_the_engine_tells_and_balances_shares(engine: Engine):
    prompt = "My friend works as a nurse. Yesterday"
    asked = {"particles": 32, "max_tokens": 16, "truncate": True, "seed": 4, "debias": ["gender"]}
    fair = engine.generate(prompt, adaptation={"balance": "population"}, **asked)
    told = fair.adaptation.group_shares["gender"]
    assert told == pytest.approx({"female": 0.5, "male": 0.5}, abs=1e-6)
    assert set(engine.generate(prompt, **asked).adaptation.group_shares["gender"]) == {"female", "male"}
    assert fair.as_dict()["adaptation"]["group_shares"]["gender"] == told
    named = engine.generate("She said", adaptation={"balance": "population"}, **asked)
    assert named.adaptation.group_shares == {} and named.adaptation.named_by_prompt == ("gender",)
    assert named.as_dict()["adaptation"]["named_by_prompt"] == ["gender"] and fair.adaptation.named_by_prompt == ()


@pytest.mark.engine
def test_a_text_names_whom_it_names_however_it_is_cut(engine: Engine):
    """ " her" may be written " he", "r", and "He" by its letters; what a stop string cut off names nobody."""
    fair = {"debias": "gender", "particles": 16, "adaptation": {"balance": "population"}}
    seen = set()
    for seed in range(3):
        told = engine.generate(
            "The nurse is late. ", choice=["She is", "He is", "No"], ess_threshold=0, seed=seed, **fair
        )
        for text, tokens, group in zip(told.texts, told.tokens, told.adaptation.named["gender"]):
            assert group == {"She is": "female", "He is": "male", "No": None}[text]
            seen.add((text, len(tokens)))
        if {"She is", "He is"} <= set(told.texts):
            assert told.adaptation.group_shares["gender"] == pytest.approx({"female": 0.5, "male": 0.5})
    assert len(seen) > len({text for text, _ in seen}), "every text was written in one way: the test would show nothing"
    cut = engine.generate("The nurse said that", stop=[" she", " he"], truncate=True, max_tokens=20, seed=0, **fair)
    assert "stop_string" in cut.finish_reasons
    for text, reason, group in zip(cut.texts, cut.finish_reasons, cut.adaptation.named["gender"]):
        assert reason != "stop_string" or group is None or re.search(r"\b(?:her|his|him|wo?m[ae]n)\b", text)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"debias": ["gender"], "particles": 1, "adaptation": {"balance": "population"}}, "several particles"),
        ({"detox": 1.0, "adaptation": {"balance": "population"}}, "name them there"),
        ({"debias": ["gender"], "adaptation": {"balance": "texts"}}, "one of token, population"),
        (
            {"debias": ["gender"], "adaptation": {"balance": "population"}, "until": {"vote": {}}},
            "leave one of them out",
        ),
        ({"debias": ["gender"], "temperature": 1e-3}, "leaves one token"),
    ],
)
def test_what_cannot_be_balanced_is_refused(engine: Engine, options, said):
    with pytest.raises(RequestError, match=said):
        engine.generate("A nurse", **options)
