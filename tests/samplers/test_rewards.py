"""Rewards by name: what every one of them obeys, and what each means."""

from __future__ import annotations

import math
import pkgutil

import numpy as np
import pytest

import samplers.rewards
from grammars.errors import RequestError
from samplers.reward import Candidate, judged, reward_named

# Options under which a reward can be made, for those that need some.
OPTIONS = {"rubric_judge": {"items": ["a"]}, "exact_match": {"reference": "a b"}, "numeric_match": {"reference": 42}}
CANDIDATES = [
    Candidate("q", text, -2.0 * len(text) - 1.0, len(text) + 1, 3.0 * len(text) + 1.0)
    for text in ("a b", " a\n b ", "A B", "42", "the answer is 42.0, not 7", "", '{"a": 1}', "[1,", "é 🙂")
]


def scoring(name: str) -> bool:
    """Whether a reward scores by itself; judges that ask a model are tested in test_judge.py."""
    return hasattr(reward_named({name: OPTIONS.get(name, {})}), "score")


# Of this layer alone: what decoding/ adds, once it is imported, is tested there.
NAMES = [module.name for module in pkgutil.iter_modules(samplers.rewards.__path__)]


@pytest.mark.parametrize("name", list(filter(scoring, NAMES)))
def test_a_batch_scores_as_its_members_do_and_every_number_is_finite(name: str):
    reward = reward_named({name: OPTIONS.get(name, {})})
    batch = reward.score(CANDIDATES)
    assert batch.shape == (len(CANDIDATES),) and np.isfinite(batch).all()
    assert batch.tolist() == [reward.score([one])[0] for one in CANDIDATES]
    assert batch[::-1].tolist() == reward.score(CANDIDATES[::-1]).tolist()
    assert len(reward.score([])) == 0


def scores(spec: object, *texts: str) -> list[float]:
    return reward_named(spec).score([Candidate("q", text) for text in texts]).tolist()  # type: ignore[arg-type]


def test_exact_match_folds_white_space_and_on_request_case():
    assert scores({"exact_match": {"reference": "a b"}}, "a b", " a \n b", "A b", "ab") == [1, 1, 0, 0]
    assert scores({"exact_match": {"reference": ["x", "A B"], "ignore_case": True}}, "a b", "X", "y") == [1, 1, 0]


def test_numeric_match_finds_the_number_a_text_comes_to():
    right = ("42", "x = 42", "First 7, then 42.", "#### 42\n", "The answer is $42 for 3 people", "42.0", "+42", "4.2e1")
    wrong = ("", "none", "42 or 43", "#### 7, or 42", "-42", "420", "The answer is 41. 42")
    assert scores({"numeric_match": {"reference": 42}}, *right) == [1] * len(right)
    assert scores({"numeric_match": {"reference": "42"}}, *wrong) == [0] * len(wrong)
    assert scores({"numeric_match": {"reference": "1,234,567.5"}}, "1234567.5", "1,234,567.50") == [1, 1]
    assert scores({"numeric_match": {"reference": 100, "tolerance": 0.01}}, "101", "101.1", "99") == [1, 0, 1]


def test_json_valid_checks_the_schema_whatever_the_spelling():
    spec = {
        "json_valid": {"json_schema": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}}
    }
    assert scores(spec, '{"a": 1}', ' {\n"b":[], "a" : 1.0} ', '{"a": "1"}', "{}", "nothing") == [1, 1, 0, 0, 0]
    assert scores("json_valid", "1", "[", "") == [1, 0, 0]


def test_mean_logprob_is_per_token_and_unknown_without_the_model():
    reward = reward_named("mean_logprob")
    assert reward.score([Candidate("q", "x", -6.0, 3)]).tolist() == [-2.0]
    assert math.isnan(reward.score([Candidate("q", "x")])[0])
    certainty = reward_named("self_certainty")
    assert certainty.score([Candidate("q", "x", -6.0, 3, 12.0)]).tolist() == [4.0]
    assert math.isnan(certainty.score([Candidate("q", "x", -6.0, 3)])[0])


@pytest.mark.parametrize(
    "spec",
    ["nothing", {"exact_match": {}}, {"exact_match": {"reference": 1}}, {"numeric_match": {"reference": "x"}}, {}, {"a": 1},
     {"mean_logprob": {"x": 1}}, {"numeric_match": {"reference": 1, "tolerance": 2}}],
)  # fmt: skip
def test_what_is_no_reward_is_named(spec: object):
    with pytest.raises(RequestError, match=r"reward|exact_match|numeric_match"):
        reward_named(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [[1.0], [1, 2, 3], [1, math.inf], ["x", 1], None, 5])
def test_a_judge_that_answers_nonsense_is_named(answer: object):
    with pytest.raises(RequestError, match="my judge"):
        judged(answer, 2, "my judge")


def test_none_and_nan_say_that_a_candidate_cannot_be_judged():
    assert np.isnan(judged([None, math.nan], 2, "j")).all()
