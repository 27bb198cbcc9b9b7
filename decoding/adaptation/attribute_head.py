"""A linear head that reads an attribute off a model's own hidden states, and the script that trains it.

python -m decoding.adaptation.attribute_head --texts scored_text.jsonl --output head.npz
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from decoding.adaptation.scored_texts import auc, read_scored_texts
from decoding.torch_model import TorchModel
from grammars.errors import RequestError, ReweighError

BATCH = 32
MOST_TOKENS = 128
HELD_OUT = 0.2
# Of the squared weights, for features scaled to variance 1 and a loss that is a mean over texts.
RIDGE = 0.03


@dataclass(frozen=True, eq=False)
class AttributeHead:
    """p(unwanted | text) = sigmoid(weight · h̄ + bias), h̄ the mean over the text's tokens of the last hidden states.

    weight  float64 [D]
    model   for messages: whose hidden states these are
    """

    weight: np.ndarray
    bias: float
    model: str

    def __post_init__(self) -> None:
        if self.weight.ndim != 1 or not (np.isfinite(self.weight).all() and np.isfinite(self.bias)):
            raise RequestError(
                "attribute head: one row of finite weights and a finite bias were wanted; train it again"
            )

    def logits(self, means: Tensor) -> Tensor:
        """log odds of unwanted against wanted, [B]. means: [B, D]"""
        return means @ torch.from_numpy(self.weight).to(means) + self.bias

    def fits(self, model: TorchModel) -> AttributeHead:
        """Itself, if its weights are as many as the model's hidden states are wide. Raises RequestError."""
        if len(self.weight) != model.hidden_size:
            raise RequestError(
                f"attribute head: {len(self.weight)} weights, made for {self.model}, but {model.name} has hidden states of "
                f"{model.hidden_size}; train one with --model {model.name}"
            )
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """As .npz, without pickle."""
        with Path(path).open("wb") as file:
            np.savez(file, weight=self.weight, bias=np.float64(self.bias), model=np.array(self.model))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> AttributeHead:
        """What `save` wrote. Raises RequestError."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                return AttributeHead(stored["weight"].astype(np.float64), float(stored["bias"]), str(stored["model"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            if isinstance(error, ReweighError):
                raise
            raise RequestError(
                f"attribute head {os.fspath(path)}: cannot be read: {type(error).__name__}: {error}; "
                "make it with python -m decoding.adaptation.attribute_head"
            ) from error


def mean_states(model: TorchModel, texts: Sequence[str], progress: bool = False) -> np.ndarray:
    """The mean of the last hidden states of each text: float64 [texts, D].

    Of a text the first 128 tokens are read, or what fits the model's context. Raises RequestError for a text without tokens.
    """
    most = min(MOST_TOKENS, model.max_tokens or MOST_TOKENS)
    tokens = [model.checked(model.encode(text)[:most], place=f"text {k}") for k, text in enumerate(texts)]
    means = np.empty((len(texts), model.hidden_size))
    order = sorted(range(len(texts)), key=lambda k: len(tokens[k]))
    with tqdm(total=len(texts), desc="reading", unit="text", disable=not progress) as bar, torch.no_grad():
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            batch, real = model.padded([tokens[k] for k in some])
            hidden = model.read(None, (batch, real)).hidden.double()
            means[some] = ((hidden * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)).cpu().numpy()
            bar.update(len(some))
    return means


def fit(means: np.ndarray, shares: np.ndarray, model: str) -> AttributeHead:
    """Logistic regression on shares, by Newton's method to its one optimum: dense features, a few hundred of them.

    means   float64 [N, D]
    shares  float64 [N] in [0, 1]: how far each text is unwanted
    """
    centre, scale = means.mean(axis=0), means.std(axis=0) + 1e-8
    features = np.column_stack([(means - centre) / scale, np.ones(len(means))])
    penalty = np.full(features.shape[1], RIDGE)
    penalty[-1] = 1e-9  # not of the bias, but enough to invert by
    solution = np.zeros(features.shape[1])
    for _ in range(50):
        share = 1 / (1 + np.exp(-features @ solution))
        slope = features.T @ (share - shares) / len(means) + penalty * solution
        curvature = (features * (share * (1 - share))[:, None]).T @ features / len(means) + np.diag(penalty)
        change = np.linalg.solve(curvature, slope)
        # A whole step may overshoot where shares are nearly 0 and 1; shorter ones cannot, for a while.
        solution -= change * min(1.0, 4.0 / float(np.abs(features @ change).max() + 1e-12))
        if np.abs(change).max() < 1e-8:
            break
    weight = solution[:-1] / scale
    return AttributeHead(weight, float(solution[-1] - weight @ centre), model)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m decoding.adaptation.attribute_head",
        description="Train the head that UDDIA's detox loss reads: a linear one on a model's own hidden states.",
    )
    parser.add_argument(
        "--model", help="folder or hub name of the model that is to be steered (default: the embedded one)"
    )
    parser.add_argument("--texts", required=True, metavar="FILE", help='JSON lines {"text": ..., "toxicity": 0 to 1}')
    parser.add_argument("--output", required=True, metavar="FILE", help="where to write the head (.npz)")
    options = parser.parse_args(arguments)
    try:
        report = _train(options.model, Path(options.texts), Path(options.output))
    except ReweighError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


def _train(model_name: str | None, source: Path, output: Path) -> dict[str, object]:
    """Write a head fitted on all texts; what is reported was measured by one fitted without those held out."""
    texts = read_scored_texts(source)
    fitted, held_out = texts.split(HELD_OUT)
    for part in (fitted, held_out):
        if len(set(part.toxic.tolist())) < 2:
            raise RequestError(
                f"{source}: of {len(texts.texts)} texts a fifth is held out; toxic and other ones are needed on both sides"
            )
    model = TorchModel.load(model_name)
    means = mean_states(model, fitted.texts + held_out.texts, progress=True)
    trial = fit(means[: len(fitted.texts)], fitted.toxicity, model.name)
    odds = means[len(fitted.texts) :] @ trial.weight + trial.bias
    fit(means, np.concatenate([fitted.toxicity, held_out.toxicity]), model.name).save(output)
    return {
        "held_out_auc": round(auc(odds, held_out.toxic), 4),
        "held_out": len(held_out.texts),
        "texts": len(texts.texts),
        "model": model.name,
        "output": str(output),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
