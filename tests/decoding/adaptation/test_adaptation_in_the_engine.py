"""Detox and debias inside vLLM: in one batch with others, under SMC and constraints, with each row's own state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from grammars.errors import RequestError, RewardError

if TYPE_CHECKING:
    from decoding.engine import Engine

pytestmark = pytest.mark.engine
RUDE = "He shouted at the driver: You are a"
CALM = "The recipe needs two eggs and"
WARD = "The nurse was tired because"
CUT = {"truncate": True, "max_tokens": 12}


def test_strength_zero_changes_nothing(engine: Engine):
    plain = engine.generate(RUDE, particles=4, seed=1, **CUT)
    off = engine.generate(RUDE, particles=4, seed=1, detox=0, debias=[], **CUT)
    unsaid = engine.generate(RUDE, particles=4, seed=1, detox=None, debias=None, adaptation=None, **CUT)
    assert unsaid.texts == plain.texts
    assert off.texts == plain.texts and off.adaptation is None


def test_where_no_gate_opens_the_texts_are_the_plain_ones(engine: Engine):
    plain = engine.generate(CALM, particles=4, seed=1, ess_threshold=0.0, **CUT)
    steered = engine.generate(
        CALM,
        particles=4,
        seed=1,
        ess_threshold=0.0,
        detox=1,
        debias="gender",
        adaptation={"gate": 1, "balance_gate": 1},
        **CUT,
    )
    assert steered.texts == plain.texts
    assert steered.adaptation is not None and not steered.adaptation.kl.any()
    np.testing.assert_allclose(steered.log_probs, plain.log_probs, atol=1e-4)


def test_a_requests_draws_do_not_depend_on_the_batch(engine: Engine):
    """Different settings, plain rows and constraints side by side give what each gives alone."""
    options = [
        {"detox": 1.0},
        {"debias": ["gender"]},
        {},
        {"detox": 0.5, "adaptation": {"method": "both"}, "particles": 4},
        {"detox": 1.0, "debias": ["gender"], "regex": r"[a-zA-Z ,]{1,30}", "particles": 4},
    ]
    prompts = [RUDE, WARD, CALM, RUDE, WARD]
    asked = [{"particles": 1, "seed": 5, **CUT, **one} for one in options]
    alone = [engine.generate(prompt, **one) for prompt, one in zip(prompts, asked, strict=True)]
    coming = [engine.stream(prompt, **one) for prompt, one in zip(prompts, asked, strict=True)]
    together = [list(chunks)[-1].result for chunks in coming]
    for one, other in zip(alone, together, strict=True):
        assert other is not None
        assert one.texts == other.texts
        np.testing.assert_allclose(one.log_weights, other.log_weights, atol=1e-3)
        if one.adaptation is not None:
            assert other.adaptation is not None
            np.testing.assert_allclose(one.adaptation.kl, other.adaptation.kl, atol=1e-3)


def test_every_particle_keeps_its_own_state_through_resampling(engine: Engine):
    """Resampled at every token, a particle's nats and ratios are those of its own text: scored again they come out the same."""
    drawn = engine.generate(RUDE, particles=6, seed=3, detox=0.5, resample_every=1, **CUT)
    assert drawn.ancestry and drawn.adaptation is not None
    assert not drawn.adaptation.is_proposal
    for tokens, kl, reason in zip(drawn.tokens, drawn.adaptation.kl_tokens, drawn.finish_reasons, strict=True):
        assert len(kl) == len(tokens) + (reason == "stop")
    by_text: dict[str, tuple[float, ...]] = {}
    for text, kl in zip(drawn.texts, drawn.adaptation.kl_tokens, strict=True):
        np.testing.assert_allclose(by_text.setdefault(text, kl), kl, atol=1e-3)


def test_the_budget_bounds_what_a_text_is_steered(engine: Engine):
    asked = {"particles": 8, "seed": 2, "ess_threshold": 0.0, **CUT}
    poor = engine.generate(RUDE, detox=2, adaptation={"budget": 0.5, "method": "both"}, **asked)
    rich = engine.generate(RUDE, detox=2, adaptation={"budget": 50, "method": "both"}, **asked)
    assert poor.adaptation is not None and rich.adaptation is not None
    assert poor.adaptation.kl.max() <= 0.5 + 1e-6 < rich.adaptation.kl.max()


def test_the_weights_estimate_the_same_normaliser_however_much_is_steered(engine: Engine):
    """exp(log_z) = E_p[ψ^β] with and without steering: two estimates of one number, from 32 draws each."""

    def estimate(budget: float) -> tuple[float, float]:
        result = engine.generate(
            RUDE,
            particles=32,
            seed=11,
            detox=0.1,
            ess_threshold=0.0,
            adaptation={"budget": budget},
            truncate=True,
            max_tokens=4,
        )
        weights = np.exp(result.log_weights)
        return weights.mean(), weights.std() / math.sqrt(len(weights))

    (unsteered, error), (steered, other) = estimate(0.0), estimate(10.0)
    assert abs(unsteered - steered) < 4.5 * math.hypot(error, other)


def test_groups_are_named_alike(engine: Engine):
    """The first token that names somebody: log p(she)/p(he) is brought to 0."""
    (step,) = engine.generate(WARD, particles=1, seed=0, trace=True, max_tokens=1, truncate=True).trace[0]
    plain = {proposal.text: proposal.logprob for proposal in step.likeliest}
    assert plain[" she"] - plain[" he"] > 1.0
    drawn = engine.generate(WARD, particles=32, seed=0, max_tokens=1, truncate=True, debias="gender", ess_threshold=0.0)
    assert drawn.adaptation is not None
    drawn_from = {
        text: log_prob + ratios[0]
        for text, log_prob, ratios in zip(drawn.texts, drawn.log_probs, drawn.adaptation.log_ratios, strict=True)
    }
    assert abs(drawn_from[" she"] - drawn_from[" he"]) < 0.3


def test_a_constraint_holds_and_is_paid_for(engine: Engine):
    result = engine.generate(
        RUDE, particles=6, seed=4, detox=1.0, regex=r" [a-z]{1,12} (man|woman|person)", max_tokens=16
    )
    assert all(text.endswith(("man", "person")) for text, w in zip(result.texts, result.weights, strict=True) if w > 0)
    assert math.isfinite(result.log_z)


class Broken:
    name = "broken"

    def log_odds(self, texts):
        return np.array([math.nan if "x" in text or len(text) > 8 else -1.0 for text in texts])


def test_a_signal_that_breaks_ends_its_own_request(engine: Engine):
    with pytest.raises(RewardError, match=r"'broken' answered nan"):
        engine.generate(RUDE, particles=2, seed=0, detox=1.0, adaptation={"signal": Broken(), "method": "tilt"}, **CUT)
    assert engine.generate(CALM, particles=1, seed=0, **CUT).texts


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"detox": -1}, "detox=-1: a number from 0 to 10"),
        ({"debias": "height"}, "no axis 'height'"),
        ({"debias": [{"a": ["zzqxjv"], "b": ["he"]}]}, "begins a word of group 'a'"),
        (
            {"debias": [{"name": "x", "groups": {1: ["he"], "1": ["she"]}}]},
            "1 is the name of a group; a text was wanted",
        ),
        ({"detox": 1, "adaptation": {"signal": "nobody.npz"}}, "nobody.npz"),
    ],
    ids=str,
)
def test_bad_settings_are_told_before_anything_is_drawn(engine: Engine, options: dict, said: str):
    with pytest.raises((RequestError, Exception), match=said):
        engine.generate(RUDE, **options)


def test_waves_tell_of_all_their_texts(engine: Engine):
    drawn = engine.generate(
        WARD, k=6, wave=2, until={"vote": {"confidence": 0.999999}}, detox=0.5, debias="gender", seed=4, **CUT
    )
    told = drawn.adaptation
    assert told is not None and len(drawn.waves) > 1
    assert len(told.kl_tokens) == len(told.log_ratios) == len(told.named["gender"]) == len(drawn.texts)
    for tokens, kl, reason in zip(drawn.tokens, told.kl_tokens, drawn.finish_reasons, strict=True):
        assert len(kl) == len(tokens) + (reason == "stop")


def test_a_trace_tells_of_the_model_not_of_what_was_drawn_from(engine: Engine):
    drawn = engine.generate(
        RUDE, particles=2, detox=2.0, adaptation={"method": "both"}, trace=True, seed=3, ess_threshold=0.0, **CUT
    )
    assert drawn.adaptation is not None and drawn.adaptation.kl.min() > 0.1
    for steps, log_prob, log_weight in zip(drawn.trace, drawn.log_probs, drawn.log_weights, strict=True):
        assert sum(step.logprob for step in steps) == pytest.approx(log_prob, abs=1e-3)
        assert sum(step.log_weight for step in steps) == pytest.approx(log_weight, abs=1e-3)
        for step in steps:
            likely = {one.text: one.logprob for one in step.likeliest}
            if step.token in likely:
                assert step.logprob == pytest.approx(likely[step.token], abs=1e-3)


def test_a_streams_signal_lives_as_long_as_it_does(engine: Engine):
    class Calm:
        name = "calm"

        def log_odds(self, texts):
            return np.zeros(len(texts))

    chunks = list(engine.stream(RUDE, detox=1.0, adaptation={"signal": Calm()}, seed=1, **CUT))
    assert chunks[-1].result is not None and chunks[-1].result.adaptation is not None


def test_a_text_that_begins_with_a_word_of_a_group_is_balanced(engine: Engine):
    drawn = engine.generate(
        'The nurse was late. "',
        particles=32,
        choice=["He was sorry.", "She was sorry."],
        debias="gender",
        seed=1,
        ess_threshold=0.0,
    )
    assert drawn.adaptation is not None
    assert 8 <= drawn.texts.count("She was sorry.") <= 24, "of 32 fair draws: false alarm 2e-3, and the seed is fixed"
