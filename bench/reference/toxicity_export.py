"""The weights of two published toxicity classifiers as plain arrays, for bench/toxicity_judge.py.

Runs in an environment of its own, which has the wheels and h5py (bench/reference/toxicity.lock) and neither TensorFlow nor Keras:

    .cache/toxicity-venv/bin/python -m bench.reference.toxicity_export FOLDER

Both are bidirectional LSTMs over GloVe vectors, trained by their authors on the comments of Jigsaw's competition of 2018 (MIT):
tox-block 0.1.2 by Pascal Bliem, and toxic-comment-classifier 0.3.0 by Md Irfan Ali.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from decoding.adaptation.inert_pickle import read_pickle


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"error: package {package!r} is not installed here: run `make bench-signals`, which installs it"
        )
    return Path(spec.submodule_search_locations[0])


def _arrays(path: Path, names: dict[str, str]) -> dict[str, np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        return {ours: np.asarray(file[theirs], dtype=np.float32) for ours, theirs in names.items()}


def _words(tokenizer: Any, rows: int) -> np.ndarray:
    """Word i of the embedding is row i; row 0 is the padding's and has no word."""
    found = [""] * rows
    for word, row in tokenizer.word_index.items():
        if row < rows:
            found[row] = word
    assert all(found[1:]) and tokenizer.num_words == rows and tokenizer.lower and tokenizer.oov_token is None
    return np.array(found)


def tox_block() -> dict[str, np.ndarray]:
    folder = _folder_of("tox_block") / "trained_models"
    recurrent = "model_weights/bidirectional/bidirectional/{}_lstm/{}:0"
    names = {
        f"{way}_{part}": recurrent.format(way, theirs)
        for way in ("forward", "backward")
        for part, theirs in (("kernel", "kernel"), ("recurrent", "recurrent_kernel"), ("bias", "bias"))
    }
    names |= {
        "embedding": "model_weights/embedding/embedding/embeddings:0",
        "hidden": "model_weights/dense/dense/kernel:0",
        "hidden_bias": "model_weights/dense/dense/bias:0",
        "output": "model_weights/dense_1/dense_1/kernel:0",
        "output_bias": "model_weights/dense_1/dense_1/bias:0",
    }
    arrays = _arrays(folder / "lstm_model_0.1.2.h5", names)
    classes = {"tox_block.data_processing.preprocessors.TokenSequencer", "keras_preprocessing.text.Tokenizer"}
    encoder = read_pickle(folder / "encoder_0.1.2.pkl", classes)
    words = _words(encoder.tokenizer, len(arrays["embedding"]))
    # Keras 2.2 wrote `recurrent_activation: hard_sigmoid` into the file.
    return {**arrays, "words": words, "gate": np.array("hard_sigmoid")}


def toxic_comment_classifier() -> dict[str, np.ndarray]:
    folder = _folder_of("toxic_classifier") / "model"
    names = {
        f"{way}_{part}": f"layers/bidirectional/{way}_layer/cell/vars/{place}"
        for way in ("forward", "backward")
        for place, part in enumerate(("kernel", "recurrent", "bias"))
    }
    names |= {
        "embedding": "layers/embedding/vars/0",
        "hidden": "layers/dense/vars/0",
        "hidden_bias": "layers/dense/vars/1",
        "output": "layers/dense_1/vars/0",
        "output_bias": "layers/dense_1/vars/1",
    }
    arrays = _arrays(folder / "model.weights.h5", names)
    tokenizer = read_pickle(folder / "tokenizer.pickle", {"keras.src.legacy.preprocessing.text.Tokenizer"})
    words = _words(tokenizer, len(arrays["embedding"]))
    return {**arrays, "words": words, "gate": np.array("sigmoid")}  # Keras 3's default, which its source leaves alone


def models() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    yield "tox_block", tox_block()
    yield "toxic_comment_classifier", toxic_comment_classifier()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in models():
        partial = folder / f"{name}.partial.npz"
        np.savez_compressed(partial, **arrays)
        os.replace(partial, folder / f"{name}.npz")
        print(f"{folder / name}.npz: {len(arrays['words'])} words", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
