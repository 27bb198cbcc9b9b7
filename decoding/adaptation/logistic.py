"""Logistic regression on sparse features, with targets that may be probabilities."""

from __future__ import annotations

import numpy as np


def fit_logistic(
    rows: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    targets: np.ndarray,
    penalty: np.ndarray,
    iterations: int = 300,
) -> tuple[np.ndarray, float]:
    """The weights w and intercept b that minimise mean cross-entropy(targets, sigmoid(Xw + b)) + sum penalty·w², by L-BFGS.

    rows, columns  int64 [E];  values  float64 [E]   the entries of X [N, W] other than zero
    targets        float64 [N]  in [0, 1]
    penalty        float64 [W]  above 0, so that there is one minimum
    returns        w float64 [W], b
    """
    import torch

    row, column, value = torch.from_numpy(rows), torch.from_numpy(columns), torch.from_numpy(values)
    target, ridge = torch.from_numpy(targets), torch.from_numpy(penalty)
    weights = torch.zeros(len(penalty), dtype=torch.float64, requires_grad=True)
    intercept = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, intercept],
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        logits = torch.zeros(len(target), dtype=torch.float64).index_add(0, row, value * weights[column]) + intercept
        cost = torch.nn.functional.binary_cross_entropy_with_logits(logits, target) + (ridge * weights**2).sum()
        cost.backward()
        return cost

    solver.step(loss)
    return weights.detach().numpy(), float(intercept.detach())
