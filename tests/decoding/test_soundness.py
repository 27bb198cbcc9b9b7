"""Weights and texts of the real model inside vLLM against the exact law of every text of a small language."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bench.bench_soundness import Exact, Laws, distance, enumerate_texts, fitted, reference_model
from bench.tasks import chat
from grammars.regex import Regex

if TYPE_CHECKING:
    from decoding import Engine, Result

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# The model says 4, and ends. With two digits it would say 10 or 12; token masking says 4 all the same, and then some digit.
PROMPT = chat("Answer with a number.", [("a bird", "2"), ("an ant", "6")], "a dog")
LANGUAGE = Regex("[1-9][0-9]")
ALPHA = 1e-6


@pytest.fixture(scope="module")
def model() -> Any:
    return reference_model()


@pytest.fixture(scope="module")
def exact(model: Any, tokenizer: Any, vocabulary: Any) -> Exact:
    return enumerate_texts(
        Laws(model, fitted(tokenizer, PROMPT)), LANGUAGE.compile(vocabulary), vocabulary, tolerance=1e-9
    )


def draw(engine: Engine, sampler: str, runs: int, **options: Any) -> list[Result]:
    results = engine.generate(
        [fitted(engine.tokenizer, PROMPT)] * runs, constraint=LANGUAGE, sampler=sampler, max_tokens=8, seed=7, **options
    )
    assert all(re.fullmatch(LANGUAGE.pattern, text) for result in results for text in result.texts)
    return results


def wrong(results: Sequence[Result], exact: Exact, z: float | None = None) -> list[str]:
    """The classes of texts (all; those with a first digit 1 or 4; the likeliest text) whose mean mass is not the exact one.

    False alarm <= ALPHA in all, by Student's t. z: taken instead of the runs' own exp(log_z)
    """
    from scipy.stats import t

    likeliest = max(exact.mass, key=lambda text: exact.mass[text])
    classes = {
        "all": lambda text: True,
        "1.": lambda text: text[0] == "1",
        "4.": lambda text: text[0] == "4",
        likeliest: lambda text: text == likeliest,
    }
    limit = float(t.isf(ALPHA / 2 / len(classes), len(results) - 1))
    found = []
    for name, belongs in classes.items():
        masses = np.array(
            [
                (math.exp(result.log_z) if z is None else z)
                * math.fsum(share for text, share in result.posterior().items() if belongs(text))
                for result in results
            ]
        )
        expected = math.fsum(mass for text, mass in exact.mass.items() if belongs(text))
        error = masses.std(ddof=1) / math.sqrt(len(masses))
        if abs(masses.mean() - expected) > limit * error + 1e-4 * expected:
            found.append(name)
    return found


def test_enumeration_gives_the_mass_of_every_text_scored_alone(
    exact: Exact, model: Any, tokenizer: Any, vocabulary: Any
) -> None:
    """Digits are written one token each: a text's mass is one product of three probabilities, here without any cache."""
    import torch

    prompt = fitted(tokenizer, PROMPT)
    texts = sorted(exact.mass)
    assert len(texts) == 90 and exact.lost == 0.0
    sample = texts[::9]
    tokens = [[*tokenizer(text)["input_ids"], vocabulary.eos] for text in sample]
    assert all(len(ids) == 3 for ids in tokens)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + ids for ids in tokens])).logits[:, -4:-1].double()
    log_masses = torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens)[:, :, None]).sum((1, 2)).numpy()
    np.testing.assert_allclose([math.log(exact.mass[text]) for text in sample], log_masses, atol=1e-3)


def test_awrs_smc_has_the_exact_z_and_the_mass_of_texts(engine: Engine, exact: Exact) -> None:
    """The standard error of Z is about 8 %: an error of 45 % is caught."""
    results = draw(engine, "awrs", runs=80, particles=5, ess_threshold=0.5)
    assert sum(result.stats.resamplings for result in results) >= 40
    assert wrong(results, exact) == []


def test_masked_importance_sampling_has_the_exact_z_and_the_mass_of_texts(engine: Engine, exact: Exact) -> None:
    assert wrong(draw(engine, "masked", runs=40, particles=5, ess_threshold=0.0), exact) == []


def test_token_masking_without_weights_fails_the_same_check(engine: Engine, exact: Exact) -> None:
    """The planted bias: weights forgotten. Its texts are wrong even where it is handed the exact Z."""
    assert distance(exact.masking, exact.posterior) > 0.5
    results = draw(engine, "lcd", runs=30, particles=5, ess_threshold=0.0)
    assert "all" in wrong(results, exact)
    assert "1." in wrong(results, exact, exact.z)
