"""Judges without a model: what they ask, what they read from a distribution, and bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from grammars.errors import RequestError
from samplers.judge import Reply, filled, read
from samplers.reward import Candidate, reward_named
from samplers.rewards.judge import Judge
from samplers.rewards.pairwise_judge import PairwiseJudge
from samplers.rewards.rubric_judge import RubricJudge

ANSWER = Candidate("What is 2 + 2?", "4")


def reply(*probs: float) -> Reply:
    with np.errstate(divide="ignore"):
        return Reply(np.log(probs), 7)


def test_the_reward_is_the_expected_score_given_that_there_is_one():
    (verdict,) = Judge().verdicts([ANSWER], [reply(0.0, 0.1, 0.0, 0.3, 0.1)])
    assert verdict.reward == pytest.approx((2 * 0.1 + 4 * 0.3 + 5 * 0.1) / 0.5)
    assert verdict.variance == pytest.approx((4 * 0.1 + 16 * 0.3 + 25 * 0.1) / 0.5 - verdict.reward**2)
    assert verdict.outside == pytest.approx(0.5)


def test_a_score_that_the_judge_does_not_give_is_unknown_and_never_zero():
    (verdict,) = Judge(least_mass=0.2).verdicts([ANSWER], [reply(0.05, 0.05, 0.0, 0.0, 0.05)])
    assert math.isnan(verdict.reward) and "0.15" in verdict.problem and verdict.outside == pytest.approx(0.85)
    (verdict,) = Judge(least_mass=0.0).verdicts([ANSWER], [Reply(np.full(5, -np.inf), 7, otherwise="'Sure'")])
    assert math.isnan(verdict.reward) and "'Sure'" in verdict.problem
    assert verdict.as_dict()["reward"] is None


def test_an_empty_text_is_not_asked_about_and_the_others_keep_their_replies():
    judge, texts = Judge(), [ANSWER, Candidate("q", " \n"), Candidate("q", "5")]
    assert len(judge.questions(texts)) == 2
    first, empty, last = judge.verdicts(texts, [reply(1, 0, 0, 0, 0), reply(0, 0, 0, 0, 1)])
    assert (first.reward, last.reward) == (1.0, 5.0) and math.isnan(empty.reward) and "empty" in empty.problem


def test_what_a_text_holds_is_never_taken_for_a_place_of_the_template():
    (question,) = Judge("Be strict.").questions([Candidate("{answer}{criteria}", "{prompt} \\1 {x}")])
    assert "{answer}{criteria}" in question.text and "{prompt} \\1 {x}" in question.text
    assert question.text.startswith("Be strict. Reply with a single digit from 1 (worst) to 5 (best)")
    assert filled("{a}{b}", a="{b}") == "{b}{b}"


def test_a_scale_may_be_words_of_any_worth():
    judge = Judge(scale={"No": -1.0, "Yes": 2.0})
    assert judge.questions([ANSWER])[0].answers == ("No", "Yes")
    assert judge.verdicts([ANSWER], [reply(0.25, 0.25)])[0].reward == pytest.approx(0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (1, 10)}, {"scale": (5, 1)}, {"scale": {"Yes": 1}}, {"scale": {"Yes": 1, "No": math.nan}}, {"scale": "15"},
        {"scale": {" a": 1, "b": 2}}, {"least_mass": 2}, {"template": "no place"}, {"template": "{answer} {x}"}, {"criteria": 1},
        {"temperature": 1},
    ],
)  # fmt: skip
def test_a_judge_that_cannot_be_is_named(options: dict[str, Any]):
    with pytest.raises(RequestError, match="judge"):
        reward_named({"judge": options})


def test_a_reading_of_one_answer_has_no_variance():
    reading = read(reply(0.0, 0.7), [3.0, 4.0], 0.1)
    assert reading.mean == 4.0 and reading.variance == 0.0 and reading.outside == pytest.approx(0.3)


class TestPairwise:
    """Comparisons: everyone meets a rival in both orders, and what is said of A is read against B."""

    @staticmethod
    def strengths(judge: PairwiseJudge, texts: list[str], better: dict[str, float], bias: float = 0.0) -> list[float]:
        """Rewards where the judge prefers the stronger text slightly or much, and leans to A by `bias` of its mass."""
        candidates = [Candidate("q", text) for text in texts]
        replies = []
        for question in judge.questions(candidates):
            first, second = (question.text.split(f"[Answer {side}]\n")[1].split("\n\n[")[0] for side in "AB")
            apart = better[first] - better[second]
            place = 2 if apart == 0 else (0 if apart > 1 else 1) if apart > 0 else (4 if apart < -1 else 3)
            probs = np.zeros(5)
            probs[place] += 0.8 - bias
            probs[0] += bias
            replies.append(reply(*probs))
        return [one.reward for one in judge.verdicts(candidates, replies)]

    def test_rewards_are_mean_preferences_over_the_rivals(self):
        judge = PairwiseJudge()
        assert len(judge.questions([Candidate("q", text) for text in "abc"])) == 6
        assert self.strengths(judge, ["a", "b", "c"], {"a": 0, "b": 1, "c": 3}) == pytest.approx([-0.75, -0.25, 1.0])

    def test_a_leaning_to_the_first_answer_cancels_over_both_orders(self):
        fair, leaning = (self.strengths(PairwiseJudge(), ["a", "b"], {"a": 0, "b": 0}, bias) for bias in (0.0, 0.3))
        assert fair == leaning == [0.0, 0.0]

    def test_a_slight_win_of_the_longer_is_a_tie_and_a_clear_one_is_not(self):
        long, short = "x" * 600, "y" * 99
        for strength, length, wanted in ((1, 500, 0.0), (2, 500, 1.0), (1, 501, 0.5), (-1, 500, -0.5)):
            judge = PairwiseJudge(longer=length)
            rewards = self.strengths(judge, [long, short], {long: strength, short: 0})
            assert rewards == pytest.approx([wanted, -wanted]), (strength, length)

    def test_many_are_compared_with_their_neighbours_each_equally_often(self):
        judge, count = PairwiseJudge(rivals=4), 32
        candidates = [Candidate("q", f"text {k}") for k in range(count)]
        pairs = judge._pairs(candidates)
        assert len(judge.questions(candidates)) == 2 * len(pairs) == 4 * count
        assert len({frozenset(pair) for pair in pairs}) == len(pairs)
        assert np.bincount(np.ravel(pairs)).tolist() == [4] * count
        for rivals in range(1, 12):
            few = PairwiseJudge(rivals=rivals)._pairs(candidates[:10])
            assert len({frozenset(pair) for pair in few}) == len(few), rivals

    def test_what_cannot_be_read_in_both_orders_is_left_out(self):
        judge, candidates = PairwiseJudge(least_mass=0.5), [Candidate("q", text) for text in ("a", "b", "c", "")]
        good, bad = reply(0.9, 0, 0, 0, 0), reply(0.1, 0, 0, 0, 0)
        # a against b cannot be read in one order; a against c, b against c can.
        a, b, c, empty = judge.verdicts(candidates, [good, bad, good, good, good, good])
        assert a.reward == b.reward == c.reward == 0.0 and "empty" in empty.problem
        a, b, c, _ = judge.verdicts(candidates, [bad] * 4 + [good] * 2)
        assert math.isnan(a.reward) and "at least 0.5" in a.problem and b.reward == 0.0

    def test_a_text_without_rivals_is_neither_good_nor_bad(self):
        judge = PairwiseJudge()
        assert judge.questions([ANSWER]) == [] and judge.verdicts([ANSWER], [])[0].reward == 0.0


def test_a_checklist_gives_the_weighted_share_of_points_met():
    judge = RubricJudge({"It is polite.": 1.0, "It is short.": 3.0, "It lies.": -1.0})
    texts = [ANSWER, Candidate("q", "")]
    questions = judge.questions(texts)
    assert len(questions) == 3 and "It is short." in questions[1].text and questions[0].answers == ("Yes", "No")
    verdict, empty = judge.verdicts(texts, [reply(0.8, 0.2), reply(0.3, 0.3), reply(0.1, 0.3)])
    assert verdict.reward == pytest.approx((0.8 + 3 * 0.5 - 0.25) / 5) and verdict.outside == pytest.approx(0.6)
    assert verdict.variance == pytest.approx((0.16 + 9 * 0.25 + 0.1875) / 25) and math.isnan(empty.reward)
    lost, _ = RubricJudge(["p", "r"], least_mass=0.3).verdicts(texts, [reply(1, 0), reply(0.1, 0.1)])
    assert math.isnan(lost.reward) and "on 'r'" in lost.problem


@pytest.mark.parametrize(
    "spec",
    [
        {"pairwise_judge": {"rivals": 0}}, {"pairwise_judge": {"longer": -1}}, {"pairwise_judge": {"template": "{first}"}},
        {"rubric_judge": {}}, {"rubric_judge": {"items": []}}, {"rubric_judge": {"items": "text"}},
        {"rubric_judge": {"items": {"a": 0}}}, {"rubric_judge": {"items": ["a", ""]}},
    ],
)  # fmt: skip
def test_comparisons_and_checklists_that_cannot_be_are_named(spec: dict[str, Any]):
    with pytest.raises(RequestError, match="_judge"):
        reward_named(spec)


def test_every_judge_asks_what_it_reads_and_nothing_of_no_candidates():
    texts = [Candidate("q", text) for text in ("a", "b", "", "c")]
    for judge in (Judge(), PairwiseJudge(), RubricJudge(["a", "b"])):
        questions = judge.questions(texts)
        replies = [Reply(np.log(np.full(len(one.answers), 0.9 / len(one.answers))), 5) for one in questions]
        verdicts = judge.verdicts(texts, replies)
        assert [math.isfinite(one.reward) for one in verdicts] == [True, True, False, True]
        assert judge.questions([]) == [] and judge.verdicts([], []) == []
