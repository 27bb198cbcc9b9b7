"""What is asked of a row's whole law: against the formulas in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from decoding.row_laws import cut_to_nucleus, log_masses, self_certainty

if TYPE_CHECKING:
    from decoding.engine import Engine


def test_masses_of_groups_are_sums_of_the_softmax():
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 4, 300).astype(np.float32))
    probs = torch.softmax(logits.double() / 0.7, 0).numpy()
    masses = log_masses(logits, [[3], [5, 250, 7], [], list(range(300))], 0.7)
    assert np.exp(masses) == pytest.approx([probs[3], probs[[5, 250, 7]].sum(), 0.0, 1.0], abs=1e-12)


@pytest.mark.parametrize("scale", [0.05, 1.0, 6.0])
@pytest.mark.parametrize("share", [0.1, 0.9, 0.999])
def test_a_nucleus_is_the_fewest_tokens_that_hold_the_share(share: float, scale: float):
    """Against a sort in float64; a flat law of 3,000 tokens needs more than are looked at first."""
    logits = torch.from_numpy(np.random.default_rng(3).normal(0, scale, (4, 3000)).astype(np.float32))
    logits[0, :2990] = -np.inf
    temperatures = [1.0, 0.5, 2.0, 1.0]
    cut = logits.clone()
    cut_to_nucleus(cut, temperatures, [share] * 4)
    for row, kept, temperature in zip(logits, cut, temperatures, strict=True):
        masses = np.sort(torch.softmax(row.double() / temperature, 0).numpy())[::-1]
        fewest = int((np.cumsum(masses) - masses < share).sum())
        there = torch.isfinite(kept)
        # At the border, rounding of float32 may decide otherwise.
        assert abs(int(there.sum()) - min(fewest, int(torch.isfinite(row).sum()))) <= (share > 0.99) * 3
        assert torch.equal(kept[there], row[there])
        if not there.all():
            assert row[there].min() >= row[~there].max()


def test_self_certainty_is_the_divergence_from_uniform_over_columns_that_are_tokens():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (4, 500)).astype(np.float32)
    logits[:, 490:] = -np.inf
    logits[3, :490] = 2.5
    temperatures = [1.0, 0.5, 2.0, 1.0]
    scaled = logits[:, :490].astype(np.float64) / np.array(temperatures)[:, None]
    log_probs = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
    expected = -(log_probs + math.log(490)).mean(1)
    assert self_certainty(torch.from_numpy(logits), temperatures) == pytest.approx(expected, abs=1e-5)
    assert expected[3] == pytest.approx(0.0, abs=1e-12)


def test_the_engine_sums_it_along_every_text_and_each_particle_keeps_its_own(engine: Engine):
    """Drawn again one particle at a time by the same tokens: the prefix's next law gives the same sums, forks or not."""
    result = engine.generate("A number: ", regex="[0-9]{1,3}", k=6, reward="self_certainty", seed=3, max_tokens=5)
    assert result.certainties is not None and result.rewards is not None
    counts = [len(tokens) + 1 for tokens in result.tokens]
    assert result.rewards.tolist() == pytest.approx([c / n for c, n in zip(result.certainties, counts)])
    prompt = engine.tokenizer("A number: ")["input_ids"]
    for tokens, total in {tuple(t): c for t, c in zip(result.tokens, result.certainties)}.items():
        steps = 0.0
        for cut in range(len(tokens) + 1):
            one = engine.generate(
                [*prompt, *tokens[:cut]], particles=1, reward="self_certainty", max_tokens=1, truncate=True, seed=1
            )
            steps += one.certainties[0]
        assert total == pytest.approx(steps, abs=1e-3)
    assert engine.generate("A: ", regex="[0-9]", particles=2).certainties is None
