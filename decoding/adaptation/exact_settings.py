"""What UDDIA is told, and what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from decoding.adaptation.exact_optimisers import OPTIMISERS
from grammars.errors import RequestError


@dataclass(frozen=True)
class ExactSettings:
    """UDDIA, as the paper runs it on GPT-2 large: u with both weights, t with debias=0, b with detox=0.

    detox            weight of the detox loss; 0: off
    debias           weight of the debias loss; 0: off
    kl               weight of KL(tuned law ‖ original). Its gradient is 0 where the offsets are: it acts from the second step on
    layers           T: the top layers whose biases or offsets are tuned, beside the final norm; None: half of the model's
    optimiser        adam, sign or natural, made afresh for every token; see exact_optimisers
    steps            of the optimiser, a token; 0: none, which is plain decoding with top_p
    learning_rate    of adam and sign in the units of activations; of natural in nats, the KL of one step at the most
    fusion           the tuned law's share: q ∝ p_tuned^fusion · p^(1 - fusion)
    top_p            the nucleus that tokens are drawn from: part of the law, and of its log q
    debias_gap       the debias loss acts where the difference of the Hellinger distances to the groups is above this
    detox_share      the detox loss acts where p(unwanted | text so far) is at least this; 0: at every token, as in the paper
    redo_perplexity  a continuation of a higher perplexity under the model itself is drawn again with fewer layers; None: never.
                     The paper takes 30 to 40
    redo_layers      how many fewer
    as_released      the released code's defects: the debias loss is overwritten by the detox loss, there is no KL term, the
                     prompt but for its last token is counted twice in the mean state after the first token, and the nucleus is
                     cut at top_p of the fused law before that is normalised
    """

    detox: float = 1.0
    debias: float = 0.05
    kl: float = 0.01
    layers: int | None = None
    optimiser: str = "adam"
    steps: int = 1
    learning_rate: float = 0.06
    fusion: float = 0.9
    top_p: float = 0.9
    debias_gap: float = 0.1
    detox_share: float = 0.0
    redo_perplexity: float | None = None
    redo_layers: int = 3
    as_released: bool = False

    def __post_init__(self) -> None:
        for name in ("detox", "debias", "kl", "learning_rate"):
            _check(name, getattr(self, name), 0.0, math.inf)
        for name in ("fusion", "debias_gap", "detox_share"):
            _check(name, getattr(self, name), 0.0, 1.0)
        _check("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise RequestError(
                "top_p=0: a number above 0, and 1 at most, was wanted; a tiny one takes the likeliest token"
            )
        if self.redo_perplexity is not None:
            _check("redo_perplexity", self.redo_perplexity, 1.0, math.inf)
        for name, least in (("steps", 0), ("redo_layers", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RequestError(f"{name}={value!r:.40}: a whole number of at least {least} was wanted")
        if self.optimiser not in OPTIMISERS:
            raise RequestError(f"optimiser={self.optimiser!r:.40}: one of {', '.join(OPTIMISERS)} was wanted")
        if self.as_released and not self.detox:
            raise RequestError(
                "as_released with detox=0: the released code replaces the debias loss by the detox loss, and without that has none"
            )


@dataclass(frozen=True, eq=False)
class ExactResult:
    """One continuation and its law. All arrays have one entry a token, the end of the text included.

    prompt, tokens   ids; tokens without the end, which `finished` says was drawn
    text             what the tokens write
    log_q, log_p     float64 [T]: of the law the token was drawn from, after fusion and top-p; of the model itself, untruncated.
                     exp(Σ log_p - Σ log_q) is the importance weight of the text towards p on the texts that q reaches: with
                     top_p below 1 truncation is part of the target
    kl               float64 [T]: KL(q ‖ p), nats; of a token that nothing was tuned at, -log of the mass top-p keeps
    kl_fused         float64 [T]: the same before top-p; 0 where nothing was tuned
    detoxed, debiased    bool [T]: where each loss acted
    gap              float64 [T]: the difference of Hellinger distances that debias_gap is compared with; nan without debias
    layers           T of this continuation
    attempts         (T, perplexity) of every continuation drawn, this one's among them
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    finished: bool
    log_q: np.ndarray
    log_p: np.ndarray
    kl: np.ndarray
    kl_fused: np.ndarray
    detoxed: np.ndarray
    debiased: np.ndarray
    gap: np.ndarray
    layers: int
    attempts: tuple[tuple[int, float], ...] = ()

    @property
    def log_weight(self) -> float:
        """log p(text) / q(text)"""
        return float(self.log_p.sum() - self.log_q.sum())

    @property
    def perplexity(self) -> float:
        """Of the continuation under the model itself."""
        return float(np.exp(-self.log_p.mean()))


def _check(name: str, value: object, least: float, most: float) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not least <= value <= most
        or not math.isfinite(value)
    ):
        range_ = f"{least:g} to {most:g}" if math.isfinite(most) else f"at least {least:g}, finite"
        raise RequestError(f"{name}={value!r:.40}: a number of {range_} was wanted")
