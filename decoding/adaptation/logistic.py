"""Logistic regression on sparse features, with targets that may be probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

TOLERANCE = 1e-8


def fit_logistic(
    rows: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    targets: np.ndarray,
    penalty: np.ndarray,
    newton_steps: int = 50,
) -> tuple[np.ndarray, float]:
    """The weights w and intercept b that minimise mean cross-entropy(targets, sigmoid(Xw + b)) + sum penalty·w².

    By Newton's method; each step's equations are solved by conjugate gradients, preconditioned by their diagonal.
    rows, columns  int64 [E];  values  float64 [E]   the entries of X [N, W] other than zero
    targets        float64 [N]  in [0, 1]
    penalty        float64 [W]  above 0, so that there is one minimum
    returns        w float64 [W], b
    Source: Lin, Weng & Keerthi (2008), "Trust region Newton method for large-scale logistic regression", with steps halved
    instead of a trust region.
    """
    count, width = len(targets), len(penalty)
    # The intercept is one more column, of ones.
    row = np.concatenate([rows, np.arange(count)])
    column = np.concatenate([columns, np.full(count, width)])
    value = np.concatenate([values, np.ones(count)])
    ridge = np.concatenate([penalty, [0.0]])

    def times(vector: np.ndarray) -> np.ndarray:
        return np.bincount(row, value * vector[column], minlength=count)

    def transposed_times(vector: np.ndarray) -> np.ndarray:
        return np.bincount(column, value * vector[row], minlength=width + 1)

    def cost(logits: np.ndarray, weights: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, logits) - targets * logits) + ridge @ weights**2)

    weights, logits = np.zeros(width + 1), np.zeros(count)
    for _ in range(newton_steps):
        probabilities = np.exp(-np.logaddexp(0, -logits))
        gradient = transposed_times(probabilities - targets) / count + 2 * ridge * weights
        if np.abs(gradient).max() < TOLERANCE:
            break
        curvature = np.maximum(probabilities * (1 - probabilities), 1e-12) / count
        diagonal = np.bincount(column, value**2 * curvature[row], minlength=width + 1) + 2 * ridge

        def hessian_times(vector: np.ndarray, curvature: np.ndarray = curvature) -> np.ndarray:
            return transposed_times(curvature * times(vector)) + 2 * ridge * vector

        direction = _conjugate_gradients(hessian_times, -gradient, diagonal)
        along, size, before = times(direction), 1.0, cost(logits, weights)
        while (
            size > 1e-6
            and cost(logits + size * along, weights + size * direction) > before + 1e-4 * size * gradient @ direction
        ):
            size /= 2
        if size <= 1e-6:  # no better point can be told from this one
            break
        weights, logits = weights + size * direction, logits + size * along
    return weights[:width], float(weights[width])


def _conjugate_gradients(
    multiply: Callable[[np.ndarray], np.ndarray], right: np.ndarray, diagonal: np.ndarray, most: int = 200
) -> np.ndarray:
    """x with Ax = right to a hundredth, A symmetric and positive, given as x -> Ax and its diagonal."""
    solution = np.zeros_like(right)
    residual = right.copy()
    scaled = residual / diagonal
    direction, product = scaled, residual @ scaled
    enough = 1e-2 * np.linalg.norm(right)
    for _ in range(most):
        image = multiply(direction)
        step = product / (direction @ image)
        solution += step * direction
        residual -= step * image
        if np.linalg.norm(residual) < enough:
            break
        scaled = residual / diagonal
        product, previous = residual @ scaled, product
        direction = scaled + product / previous * direction
    return solution
