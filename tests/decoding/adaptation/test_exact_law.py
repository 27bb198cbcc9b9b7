"""Fusion, nucleus, draws and divergence of laws, by hand and against the plainest code."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.adaptation.exact_law import divergence, draw, fused, nucleus

LAW = np.log(np.array([[0.1, 0.4, 0.05, 0.25, 0.2]]))
IMPOSSIBLE = -np.inf


def random_laws(rows: int, columns: int) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(rows, columns)) * 3
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_fusion_is_the_normalised_geometric_mean():
    tuned = np.log(np.array([[0.5, 0.1, 0.1, 0.2, 0.1]]))
    by_hand = np.exp(tuned) ** 0.9 * np.exp(LAW) ** 0.1
    assert np.exp(fused(tuned, LAW, 0.9)) == pytest.approx(by_hand / by_hand.sum(), abs=1e-15)
    assert fused(tuned, LAW, 1.0) == pytest.approx(tuned, abs=1e-15)
    assert fused(tuned, LAW, 0.0) == pytest.approx(LAW, abs=1e-15)


def test_what_either_law_excludes_the_fused_one_does():
    holed = np.log(np.array([[0.5, 0.5, 1e-300, 1e-300, 1e-300]]))
    holed[0, 2:] = IMPOSSIBLE
    assert np.exp(fused(holed, LAW, 0.9))[0, 2:] == pytest.approx(0)
    assert np.exp(fused(holed, LAW, 0.9)).sum() == pytest.approx(1)
    # Of no weight, a law excludes nothing.
    assert fused(holed, LAW, 0.0) == pytest.approx(LAW)
    assert fused(LAW, holed, 1.0) == pytest.approx(LAW)


def test_the_nucleus_keeps_the_token_that_reaches_top_p():
    for top_p, kept in (
        (0.3, [1]),
        (0.39, [1]),
        (0.5, [1, 3]),
        (0.84, [1, 3, 4]),
        (0.9, [0, 1, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ):
        law = np.exp(nucleus(LAW, top_p))[0]
        masses = np.exp(LAW[0, kept])
        assert np.flatnonzero(law).tolist() == kept, top_p
        assert law[kept] == pytest.approx(masses / masses.sum())


@pytest.mark.parametrize("top_p", [0.001, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_a_full_sort(top_p: float):
    laws = random_laws(20, 3000)
    laws[:, 7] = laws[:, 5]  # equal masses
    for row, law in zip(laws, nucleus(laws, top_p), strict=True):
        order = np.argsort(-row, kind="stable")
        count = int(np.searchsorted(np.exp(row[order]).cumsum(), top_p)) + 1
        assert set(np.flatnonzero(law > -np.inf)) == set(order[:count])
        assert np.exp(law).sum() == pytest.approx(1)


def test_masses_of_another_scale_can_be_counted():
    """Half of each mass: .5 of them is all of the law, .2 of them is .4 of it."""
    assert nucleus(LAW, 0.6, LAW - np.log(2)) == pytest.approx(LAW)
    assert np.flatnonzero(np.exp(nucleus(LAW, 0.3, LAW - np.log(2)))).tolist() == [1, 3]


def test_draws_follow_the_inverse_cdf():
    law = nucleus(LAW, 0.84)  # [0, .4, 0, .25, .2] / .85
    points = np.array([0.0, 0.4 / 0.85 - 1e-9, 0.4 / 0.85 + 1e-9, 0.65 / 0.85 + 1e-9, 1 - 2**-53])
    assert draw(np.tile(law, (5, 1)), points).tolist() == [1, 1, 3, 4, 4]


def test_a_draw_never_is_a_token_without_mass():
    """Grids that touch 0 and nearly 1, over laws that begin and end in holes."""
    laws = random_laws(64, 50)
    laws[:, [0, 1, 20, 48, 49]] = -np.inf
    laws = nucleus(laws - np.log(np.exp(laws).sum(axis=1, keepdims=True)), 1 - 1e-12)
    for point in (0.0, 0.5, 1 - 2**-53):
        tokens = draw(laws, np.full(64, point))
        assert np.isfinite(laws[np.arange(64), tokens]).all()


def test_divergence_by_hand():
    law = nucleus(LAW, 0.84)
    assert divergence(law, LAW) == pytest.approx([-np.log(0.85)])
    assert divergence(LAW, LAW) == pytest.approx([0])
    other = np.log(np.array([[0.2] * 5]))
    assert divergence(LAW, other)[0] == pytest.approx(sum(np.exp(x) * (x - np.log(0.2)) for x in LAW[0]))
