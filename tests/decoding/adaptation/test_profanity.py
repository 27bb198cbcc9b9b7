"""The signal `profanity` says what its authors' classifier says, with the identity terms taken out of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from decoding.adaptation import profanity as module
from decoding.adaptation.identity_terms import ALL_IDENTITY_TERMS, IDENTITY_TERMS
from decoding.adaptation.profanity import profanity
from grammars.errors import EngineError

# alt-profanity-check 1.9.1's own predict_prob, under scikit-learn 1.9.1.
GOLDEN = [
    ("The weather in the mountains changed quickly that afternoon.", 0.0051079125028316835),
    ("My neighbour is a gay man and teaches mathematics.", 0.2792682767139764),
    ("The Muslim community opened its doors for the festival.", 0.009561786464323044),
    ("A black woman was elected mayor of the town.", 0.03303980934018817),
    ("Please send the invoice before Friday, thank you very much.", 0.019885328634005696),
    ("", 0.036375752016469504),
    ("the of and", 0.036375752016469504),
    ("He was called an idiot by the damn machine!", 0.999798629682266),
    ("Zebra zebra ZEBRA zebra crossing crossing.", 0.0331379206705522),
    ("Naïve café owners in São Paulo sold 1234 cups.", 0.020246528373159572),
    ("You are wonderful, and your stupid jokes make me laugh.", 0.9422159769684711),
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and nothing remembered from another."""
    monkeypatch.setenv("REWEIGH_CACHE", str(tmp_path))
    profanity.cache_clear()
    yield tmp_path
    profanity.cache_clear()


def exported_file(cache: Path) -> Path:
    return next(cache.glob("*.npz"))


def test_with_identity_terms_kept_it_is_the_classifier_of_the_wheel(cache: Path):
    signal = profanity("kept")
    probabilities = 1 / (1 + np.exp(-signal.log_odds([text for text, _ in GOLDEN])))
    assert probabilities == pytest.approx([probability for _, probability in GOLDEN], abs=1e-12)
    assert signal.name == "profanity_with_identity"


def test_for_steering_identity_terms_mean_nothing_and_all_else_is_as_it_was(cache: Path):
    kept, zeroed = profanity("kept"), profanity()
    columns = np.array([word in ALL_IDENTITY_TERMS for word in sorted(kept.words, key=kept.words.__getitem__)])
    assert 250 < columns.sum() < 500
    assert (zeroed.coefficients[:, columns] == 0).all() and (kept.coefficients[:, columns] != 0).any()
    assert np.array_equal(zeroed.coefficients[:, ~columns], kept.coefficients[:, ~columns])
    empty, gay, black, muslim, idiot = zeroed.log_odds(["", "gay", "a black woman", "Muslims", "idiot"])
    assert gay == black == muslim == empty and idiot > empty + 5
    assert kept.log_odds(["gay"])[0] > empty + 2
    assert zeroed.name == "profanity"


def test_every_group_of_terms_meets_words_of_the_classifier(cache: Path):
    for axis, terms in IDENTITY_TERMS.items():
        assert len(terms & profanity().words.keys()) >= 15, axis
        assert all(term == term.lower() and term.isalnum() for term in terms), axis


def test_the_export_is_made_once_and_again_when_damaged(cache: Path):
    signal = profanity("kept")
    path = exported_file(cache)
    whole, made = path.read_bytes(), path.stat().st_mtime_ns
    profanity.cache_clear()
    assert np.array_equal(profanity("kept").coefficients, signal.coefficients)
    assert path.stat().st_mtime_ns == made
    path.write_bytes(whole[:-1000])
    profanity.cache_clear()
    assert np.array_equal(profanity("kept").coefficients, signal.coefficients)
    assert path.stat().st_size == len(whole)


def test_neither_scikit_learn_nor_joblib_nor_torch_is_imported(cache: Path):
    code = (
        "import sys; from decoding.adaptation.profanity import profanity; profanity();"
        "print([name for name in ('sklearn', 'joblib', 'profanity_check', 'torch') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


def test_a_missing_package_is_named_with_its_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=r"needs the package 'alt-profanity-check'; .*--no-deps alt-profanity-check==1\.9\.1"
    ):
        profanity()


def test_another_version_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "VERSION", "1.0.0")
    with pytest.raises(EngineError, match=r"alt-profanity-check 1\.0\.0, and 1\.9\.1 is installed"):
        profanity()


def test_a_cache_that_cannot_be_written_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("REWEIGH_CACHE", str(cache / "file" / "below"))
    with pytest.raises(EngineError, match="REWEIGH_CACHE"):
        profanity()


def test_an_unknown_treatment_of_identity_is_an_error(cache: Path):
    with pytest.raises(ValueError, match="'dropped' is not known: say 'zeroed' or 'kept'"):
        profanity("dropped")  # type: ignore[arg-type]
