"""The fitted weights are the minimum: the gradient is zero there, and targets may lie between 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest

from decoding.adaptation.logistic import fit_logistic
from decoding.adaptation.tfidf import tfidf, vocabulary_of


def test_the_gradient_vanishes_at_the_fitted_weights():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(60, 5)) * (rng.random((60, 5)) < 0.5)
    targets, penalty = rng.random(60), np.array([0.01, 0.02, 0.1, 1.0, 0.001])
    rows, columns = np.nonzero(features)
    weights, intercept = fit_logistic(rows, columns, features[rows, columns], targets, penalty)
    wrong = 1 / (1 + np.exp(-(features @ weights + intercept))) - targets
    assert features.T @ wrong / 60 + 2 * penalty * weights == pytest.approx(np.zeros(5), abs=1e-6)
    assert wrong.mean() == pytest.approx(0, abs=1e-6)
    assert np.abs(weights).max() > 0.1


def test_the_matrix_of_texts_has_rows_of_length_one_and_no_rare_terms():
    texts = ["red red blue", "blue", "", "green"]
    terms, idf = vocabulary_of(texts, least=1)
    assert list(terms) == ["blue", "green", "red"]
    assert idf == pytest.approx(np.log([5 / 3, 5 / 2, 5 / 2]) + 1)
    rows, columns, values = tfidf(texts, terms, idf)
    dense = np.zeros((4, 3))
    dense[rows, columns] = values
    assert np.linalg.norm(dense, axis=1) == pytest.approx([1, 1, 0, 1])
    assert dense[0, 2] / dense[0, 0] == pytest.approx(2 * idf[2] / idf[0])
    assert list(vocabulary_of(texts, least=2)[0]) == ["blue"]
