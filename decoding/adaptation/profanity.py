"""The signal `profanity`: the linear classifier that the package `alt-profanity-check` ships (MIT licence), read once.

Five calibrated linear SVMs over 15,442 words, trained by its authors on comments and tweets. The wheel brings them as pickles
of scikit-learn; the numbers are taken out of these without running them, and neither scikit-learn nor joblib is needed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Literal

import filelock
import numpy as np

from decoding.adaptation.identity_terms import ALL_IDENTITY_TERMS
from decoding.adaptation.inert_pickle import read_pickle
from decoding.adaptation.linear_signal import LinearSignal
from decoding.embedded_model import cache_folder
from grammars.errors import EngineError

PACKAGE = "profanity_check"
DISTRIBUTION = "alt-profanity-check"
VERSION = "1.9.1"
# Part of the file's name: raise it whenever what is written for the same wheel changes.
RECIPE = 1
INSTALL = f"install it with the extra 'adaptation': pip install --no-deps {DISTRIBUTION}=={VERSION}"
_SKLEARN = (
    "sklearn.calibration.CalibratedClassifierCV",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.svm._classes.LinearSVC",
    "sklearn.feature_extraction.text.TfidfVectorizer",
    "sklearn.feature_extraction.text.TfidfTransformer",
)
# What the words are cut and weighted by; `LinearSignal` does these and no others.
_VECTORISER = {
    "analyzer": "word", "binary": False, "lowercase": True, "ngram_range": (1, 1), "norm": "l2", "preprocessor": None,
    "strip_accents": None, "sublinear_tf": False, "token_pattern": r"(?u)\b\w\w+\b", "tokenizer": None, "use_idf": True,
}  # fmt: skip


@functools.cache
def profanity(identity: Literal["zeroed", "kept"] = "zeroed") -> LinearSignal:
    """Log odds that a text is profane, hateful or toxic.

    identity  "zeroed" for steering: words that say who somebody is mean nothing to it; "kept": the classifier as it was trained
    raises    EngineError when the package is not installed, is another version, or the cache folder cannot be written
    """
    signal = _exported()
    if identity == "zeroed":
        return signal.without(ALL_IDENTITY_TERMS)
    if identity == "kept":
        return replace(signal, name="profanity_with_identity")
    raise ValueError(f"identity={identity!r} is not known: say 'zeroed' or 'kept'")


def _exported() -> LinearSignal:
    """The classifier from the cache folder, exported first if it is missing there or damaged."""
    folder = _package_data()
    path = cache_folder() / f"{DISTRIBUTION}-{VERSION}-{RECIPE}.npz"
    if signal := _intact(path):
        return signal
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(path.name + ".lock")):
            if signal := _intact(path):  # another process may have made it while we waited
                return signal
            signal = export(folder / "vectorizer.joblib", folder / "model.joblib")
            signal.save(path)
            return signal
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error}; set REWEIGH_CACHE to a writable folder") from error


def _intact(path: Path) -> LinearSignal | None:
    if not path.is_file():
        return None
    try:
        return LinearSignal.load(path)
    except EngineError:
        return None  # it is made again


def _package_data() -> Path:
    # find_spec does not import the package, which would want scikit-learn: only its weights are used.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EngineError(f"signal 'profanity' needs the package '{DISTRIBUTION}'; {INSTALL}, or name another signal")
    if (version := importlib.metadata.version(DISTRIBUTION)) != VERSION:
        raise EngineError(
            f"signal 'profanity' is read from {DISTRIBUTION} {VERSION}, and {version} is installed; {INSTALL}"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def export(vectoriser_path: Path, model_path: Path) -> LinearSignal:
    """The classifier in the two joblib files of the wheel, with every coefficient as it was trained."""
    vectoriser, model = read_pickle(vectoriser_path, _SKLEARN), read_pickle(model_path, _SKLEARN)
    if differing := {
        key: vars(vectoriser)[key] for key, value in _VECTORISER.items() if vars(vectoriser)[key] != value
    }:
        raise EngineError(
            f"{vectoriser_path} cuts or weights words as no linear signal here does: {differing}; {INSTALL}"
        )
    machines = [(each.estimator, each.calibrators[0]) for each in model.calibrated_classifiers_]
    return LinearSignal(
        name="profanity",
        words={word: int(column) for word, column in vectoriser.vocabulary_.items()},
        idf=vectoriser._tfidf.idf_.array,
        coefficients=np.concatenate([machine.coef_.array for machine, _ in machines]),
        intercepts=np.concatenate([machine.intercept_.array for machine, _ in machines]),
        slopes=np.array([calibrator.a_ for _, calibrator in machines]),
        offsets=np.array([calibrator.b_ for _, calibrator in machines]),
    )
