"""A linear classifier of words: quick, transparent, and cheap to follow token by token."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from decoding.adaptation.tfidf import tfidf
from grammars.errors import EngineError

FORMAT = 1


# No equality by its fields: they cannot be hashed, and a request holds the object.
@dataclass(frozen=True, eq=False)
class LinearSignal:
    """Several linear heads over TF-IDF words, each with a sigmoid of its own; their mean probability counts.

    Words are cut as `tfidf.words_of` does; one that is not in the vocabulary does not count, stop words among them.
    A text is x [W] with x_w = count(w)·idf_w / norm, where norm makes its Euclidean length 1; a text without known words is 0.
    Head h says p_h = sigmoid(-(slopes_h·f_h + offsets_h)) with f_h = coefficients_h·x + intercepts_h, and
    log_odds = logit(mean_h p_h).

    name          under which requests ask for it
    words         word -> w, its column: 0 to W-1, each once
    idf           float64 [W]         above 0: log inverse document frequency + 1
    coefficients  float64 [heads, W]
    intercepts    float64 [heads]
    slopes        float64 [heads]     of the calibration; below 0 where a greater f is worse
    offsets       float64 [heads]
    Source: Platt (1999), "Probabilistic outputs for support vector machines"; the TF-IDF is scikit-learn's with smooth_idf and
    norm="l2".
    """

    name: str
    words: Mapping[str, int]
    idf: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray
    slopes: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        heads, width = len(self.intercepts), len(self.words)
        shapes = {
            "idf": (width,),
            "coefficients": (heads, width),
            "intercepts": (heads,),
            "slopes": (heads,),
            "offsets": (heads,),
        }
        for field, shape in shapes.items():
            array = np.array(getattr(self, field), dtype=np.float64)
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(
                    f"{field} of signal {self.name!r} has shape {list(array.shape)}, finite: {bool(np.isfinite(array).all())}; "
                    f"wanted finite numbers of shape {list(shape)}, for {heads} heads over {width} words"
                )
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        if heads == 0 or width == 0 or (self.idf <= 0).any():
            raise ValueError(f"signal {self.name!r} needs a head, a word, and idf above 0")
        if sorted(self.words.values()) != list(range(width)):
            raise ValueError(f"the words of signal {self.name!r} must be numbered 0 to {width - 1}, each once")

    def log_odds(self, texts: Sequence[str]) -> np.ndarray:
        """See `Signal`: the logit of the heads' mean probability. It is finite: all of it is done in logs.

        returns  float64 [len(texts)]
        """
        return self.log_odds_of(self.decisions(texts))

    def decisions(self, texts: Sequence[str]) -> np.ndarray:
        """f of every head for every text, before calibration.

        returns  float64 [heads, len(texts)]
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of texts, not the one text {texts[:40]!r}: put it in a list")
        rows, columns, values = tfidf(texts, self.words, self.idf)
        sums = [np.bincount(rows, values * head[columns], minlength=len(texts)) for head in self.coefficients]
        return np.array(sums) + self.intercepts[:, None]

    def log_odds_of(self, decisions: np.ndarray) -> np.ndarray:
        """The calibrated log odds of what the heads say.

        decisions  float64 [heads, ...]
        returns    float64 [...]
        """
        one_each = (-1,) + (1,) * (decisions.ndim - 1)
        against = self.slopes.reshape(one_each) * decisions + self.offsets.reshape(one_each)
        # Sums over heads of log p_h and of log(1 - p_h); their difference needs no division by the number of heads.
        log_p, log_not_p = -np.logaddexp(0.0, against), -np.logaddexp(0.0, -against)
        return np.asarray(np.logaddexp.reduce(log_p, axis=0) - np.logaddexp.reduce(log_not_p, axis=0))

    def without(self, words: Collection[str]) -> LinearSignal:
        """The same signal, for which these words mean nothing: their coefficients are 0, and their share in the norm stays."""
        coefficients = self.coefficients.copy()
        coefficients[:, [self.words[word] for word in words if word in self.words]] = 0.0
        return replace(self, coefficients=coefficients)

    def save(self, path: Path | str) -> None:
        """Write a .npz of plain arrays, whole or not at all."""
        path = Path(path)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                np.savez_compressed(
                    file,
                    format=np.array(FORMAT),
                    name=np.array(self.name),
                    words=np.array(sorted(self.words, key=self.words.__getitem__)),
                    idf=self.idf,
                    coefficients=self.coefficients,
                    intercepts=self.intercepts,
                    slopes=self.slopes,
                    offsets=self.offsets,
                )
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> LinearSignal:
        """Read what `save` wrote. EngineError for a file that is missing, damaged (it carries checksums) or something else."""
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if damaged := file.zip.testzip():  # numpy stops reading before the check sum
                    raise ValueError(f"{damaged} in it is damaged")
                if (found := int(file["format"])) != FORMAT:
                    raise ValueError(f"format {found}, and this version reads {FORMAT}")
                return cls(
                    str(file["name"]),
                    {str(word): column for column, word in enumerate(file["words"])},
                    *(file[field] for field in ("idf", "coefficients", "intercepts", "slopes", "offsets")),
                )
        except Exception as error:  # zipfile, zlib and numpy each fail in their own ways on a damaged file
            raise EngineError(
                f"{path} is no linear signal that can be read ({type(error).__name__}: {error}); "
                "write one with LinearSignal.save or `python -m decoding.adaptation.fit_signal`"
            ) from error
