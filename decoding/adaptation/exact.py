"""UDDIA, exactly: a model is tuned anew at every token, while it decodes, so that text is neither toxic nor leans to a group.

At each token a row's offsets start at zero; their loss is taken of the law they give and of the hidden state one soft token
ahead; an optimiser moves them; the tuned law is fused with the original one and truncated; a token is drawn; and it is read by
the original model, so that the KV cache is that of plain decoding. The paper runs one text; here each row has its own offsets.

Every token's law depends on its own row's past only: as a proposal in SMC it is a legal one. Drawing again by perplexity
(redo) is no SMC step: the text kept is chosen by what it turned out to be, and its log q is that of its own attempt, not of the
choice. The sound form is a potential on the perplexity, with T fixed beforehand.

Source: Yang, Yi, Li, Liu & Xie (2023), "Unified detoxifying and debiasing in language generation via inference-time adaptive
optimization", arXiv 2210.04492, and its released code. Two things are ours: the current token's own hidden state counts in the
mean as the original model has it, whatever the step (the released code takes the tuned one, without its gradient, which is
the same number at the first step); and rows whose losses do not act are not tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from decoding.adaptation.attribute_head import AttributeHead
from decoding.adaptation.exact_groups import TokenGroups
from decoding.adaptation.exact_law import divergence, draw, fused, geometric_mean, nucleus
from decoding.adaptation.exact_losses import debias_costs, debias_loss, detox_loss, hellinger_gap, kl_loss
from decoding.adaptation.exact_offsets import Offsets
from decoding.adaptation.exact_optimisers import OPTIMISERS, Geometry
from decoding.adaptation.exact_settings import ExactResult, ExactSettings
from decoding.torch_model import Past, Step, TorchModel
from grammars.errors import EngineError, RequestError
from grammars.vocabulary import Vocabulary
from samplers.randomness import MAX_SEED, derive_seed, uniforms


@dataclass(frozen=True)
class _Row:
    """What is to be drawn: which prompt, and the address of its random numbers."""

    prompt: tuple[int, ...]
    seed: int
    particle: int


@dataclass(frozen=True, eq=False)
class _Seen:
    """What rows have read, up to the token whose successor is asked for.

    before  their past without the last token (None: that is the first)
    step    the pass that read the last token, by the original model
    states  [B, D]: the sum of the last hidden states over what was read, as the mean of the detox loss counts it
    count   [B]: tokens read
    bag     [B, K]: the sum of their vectors in the groups; K = 0 without groups
    """

    before: Past | None
    step: Step
    states: Tensor
    count: Tensor
    bag: Tensor

    def rows(self, chosen: Tensor) -> _Seen:
        before = None if self.before is None else self.before.rows(chosen)
        step = Step(self.step.hidden[chosen], self.step.past.rows(chosen), ())
        return _Seen(before, step, self.states[chosen], self.count[chosen], self.bag[chosen])


@dataclass(frozen=True, eq=False)
class _Laws:
    """The laws of the next token: float64 [B, V] of log p and log q, and what `ExactResult` reports of each row [B]."""

    original: np.ndarray
    drawn_from: np.ndarray
    kl: np.ndarray
    kl_fused: np.ndarray
    detoxed: np.ndarray
    debiased: np.ndarray
    gap: np.ndarray


@dataclass
class _Draft:
    """A continuation under way."""

    row: _Row
    tokens: list[int] = field(default_factory=list)
    reports: list[tuple[float, ...]] = field(default_factory=list)
    finished: bool = False


class UDDIA:
    """Draws continuations that a model tunes itself for.

    settings  see ExactSettings
    head      reads the attribute off hidden states; needed with detox
    groups    tell the tokens of each group; needed with debias

    A `LanguageModel` as well: `next_logprobs` is the law after a prefix, which the samplers can propose from.
    Not for several threads at once: a pass puts its hooks on the model. Raises RequestError for what is missing or does not fit.
    """

    def __init__(
        self,
        model: TorchModel,
        settings: ExactSettings,
        head: AttributeHead | None = None,
        groups: TokenGroups | None = None,
    ) -> None:
        if settings.detox and head is None:
            raise RequestError(
                "detox needs an attribute head: train one with python -m decoding.adaptation.attribute_head"
            )
        if settings.debias and groups is None:
            raise RequestError("debias needs groups, such as TokenGroups.of_words(model, 'gender')")
        self.model, self.settings = model, settings
        self._head = head.fits(model) if head is not None and settings.detox else None
        self._groups = groups if settings.debias else None
        self._layers = max(1, len(model.layers) // 2) if settings.layers is None else settings.layers
        self._offsets = Offsets(model, self._layers)
        if self._groups is not None:
            self._alone = self._groups.alone

    @property
    def vocabulary(self) -> Vocabulary:
        return self.model.vocabulary

    def next_logprobs(self, prefix: Sequence[int]) -> np.ndarray:
        """log q of every next token, as `generate` draws it: fused and truncated. float64 [V]"""
        seen = self._begin([self.model.checked(prefix)], self._offsets)
        return self._laws(seen, self._offsets).drawn_from[0]

    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        max_tokens: int = 20,
        seed: int = 0,
        samples: int = 1,
        batch_size: int = 32,
        progress: bool = False,
    ) -> list[ExactResult]:
        """Continue prompts. The same seed gives the same texts, whatever else is in the batch, but for the numerics of float32.

        max_tokens  of a continuation, its end included
        seed        0 to 2^64 - 1. Prompt k of the list has `derive_seed(seed, k)`: alone, with that seed, it draws the same
        samples     continuations of each prompt
        batch_size  rows at once
        returns     the samples of the first prompt, of the second, ...
        Raises RequestError naming the prompt; EngineError where the model's numbers overflow.
        """
        for name, value in (("max_tokens", max_tokens), ("samples", samples), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise RequestError(f"{name}={value!r:.40}: a whole number of at least 1 was wanted")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise RequestError(f"seed={seed!r:.40}: a whole number from 0 to 2^64 - 1 was wanted")
        if isinstance(prompts, str):
            raise RequestError("prompts: a list of texts or of token ids was wanted; put the text into a list")
        for k, prompt in enumerate(prompts):
            if not isinstance(prompt, Sequence | np.ndarray):
                raise RequestError(
                    f"prompts[{k}]: {prompt!r:.40}: a text or a list of token ids was wanted, for each prompt one"
                )
        given = [self.model.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        checked = [self.model.checked(prompt, max_tokens, f"prompts[{k}]") for k, prompt in enumerate(given)]
        rows = [_Row(prompt, derive_seed(seed, k), n) for k, prompt in enumerate(checked) for n in range(samples)]
        with tqdm(total=len(rows), desc="generating", unit="text", disable=not progress) as bar:
            return self._best(rows, max_tokens, batch_size, bar)

    def _best(self, rows: Sequence[_Row], max_tokens: int, batch_size: int, bar: tqdm[Any]) -> list[ExactResult]:
        """Each row's continuation, or where redo is asked for the one of least perplexity among its attempts."""
        best: list[ExactResult | None] = [None] * len(rows)
        attempts: list[tuple[tuple[int, float], ...]] = [()] * len(rows)
        wanted, offsets, attempt = list(range(len(rows))), self._offsets, 0
        while wanted:
            # Rows of like length stand together: what is padded is computed in vain.
            wanted.sort(key=lambda k: len(rows[k].prompt))
            again = []
            fewer = offsets.layers - self.settings.redo_layers
            for start in range(0, len(wanted), batch_size):
                some = wanted[start : start + batch_size]
                for k, result in zip(
                    some, self._continued([rows[k] for k in some], max_tokens, offsets, attempt), strict=True
                ):
                    attempts[k] += ((offsets.layers, result.perplexity),)
                    kept = best[k]
                    if kept is None or result.perplexity < kept.perplexity:
                        best[k] = result
                    limit = self.settings.redo_perplexity
                    if limit is not None and result.perplexity > limit and fewer >= 1:
                        again.append(k)
                    else:
                        bar.update()
            wanted, attempt = again, attempt + 1
            if again:
                offsets = Offsets(self.model, fewer)
        return [replace(result, attempts=attempts[k]) for k, result in enumerate(best) if result is not None]

    def _continued(
        self, rows: Sequence[_Row], max_tokens: int, offsets: Offsets, attempt: int
    ) -> Iterator[ExactResult]:
        """One continuation of each row, all in one batch. attempt: which of the uniforms at each address to draw with"""
        drafts = [_Draft(row) for row in rows]
        running = drafts
        seen = self._begin([row.prompt for row in rows], offsets)
        twice = self._counted_twice(seen)
        for position in range(max_tokens):
            laws = self._laws(seen, offsets)
            tokens = draw(
                laws.drawn_from,
                uniforms(
                    np.array([draft.row.seed for draft in running], dtype=np.uint64),
                    np.array([draft.row.particle for draft in running]),
                    np.full(len(running), position),
                    attempt,
                    1,
                )[:, 0],
            )
            going = []
            for index, (draft, token) in enumerate(zip(running, tokens.tolist(), strict=True)):
                log_q, log_p = laws.drawn_from[index, token], laws.original[index, token]
                draft.reports.append(
                    (log_q, log_p, laws.kl[index], laws.kl_fused[index], laws.detoxed[index], laws.debiased[index], laws.gap[index])
                )  # fmt: skip
                draft.finished = token == self.vocabulary.eos
                if not draft.finished:
                    draft.tokens.append(token)
                    going.append(index)
            if not going or position == max_tokens - 1:
                break
            if len(going) < len(running):
                chosen = torch.tensor(going, device=self.model.device)
                seen, twice = seen.rows(chosen), twice[chosen]
                running = [running[index] for index in going]
            seen = self._read(seen, torch.from_numpy(tokens[going]).to(self.model.device), offsets)
            if position == 0:
                seen = replace(seen, states=seen.states + twice)
        yield from (self._result(draft, offsets.layers) for draft in drafts)

    def _result(self, draft: _Draft, layers: int) -> ExactResult:
        log_q, log_p, kl, kl_fused, detoxed, debiased, gap = np.array(draft.reports, dtype=np.float64).T
        return ExactResult(
            draft.row.prompt, tuple(draft.tokens), self.vocabulary.decode(draft.tokens).decode(errors="replace"),
            draft.finished, log_q, log_p, kl, kl_fused, detoxed > 0, debiased > 0, gap, layers,
        )  # fmt: skip

    # Reading, always by the original model

    @torch.no_grad()
    def _begin(self, prompts: Sequence[Sequence[int]], offsets: Offsets) -> _Seen:
        model = self.model
        tokens, real = model.padded([prompt[:-1] for prompt in prompts])
        last = torch.tensor([prompt[-1] for prompt in prompts], device=model.device)
        states = torch.zeros(len(prompts), model.hidden_size, dtype=model.embedding.dtype, device=model.device)
        bag = states.new_zeros(len(prompts), 0 if self._groups is None else self._groups.vectors.shape[1])
        before = None
        if tokens.shape[1]:
            read = model.read(None, (tokens, real))
            before = read.past
            states = states + torch.where(real[..., None], read.hidden, 0.0).sum(dim=1)
            if self._groups is not None:
                bag = torch.where(real[..., None], self._groups.vectors[tokens], 0.0).sum(dim=1)
        return self._with_last(before, states, real.sum(dim=1), bag, last, offsets)

    @torch.no_grad()
    def _read(self, seen: _Seen, tokens: Tensor, offsets: Offsets) -> _Seen:
        return self._with_last(seen.step.past, seen.states, seen.count, seen.bag, tokens, offsets)

    def _with_last(
        self, before: Past | None, states: Tensor, count: Tensor, bag: Tensor, last: Tensor, offsets: Offsets
    ) -> _Seen:
        given = last[:, None]
        step = self.model.read(before, (given, torch.ones_like(given, dtype=torch.bool)), top=offsets.layers)
        if self._groups is not None:
            bag = bag + self._groups.vectors[last]
        return _Seen(before, step, states + step.hidden[:, 0], count + 1, bag)

    def _counted_twice(self, seen: _Seen) -> Tensor:
        """What the released code adds once more to the sum of states after the first token: the prompt's but for its last."""
        return seen.states - seen.step.hidden[:, 0] if self.settings.as_released else torch.zeros_like(seen.states)

    # Tuning

    def _laws(self, seen: _Seen, offsets: Offsets) -> _Laws:
        """The laws of the next token, original and drawn from."""
        settings = self.settings
        with torch.no_grad():
            original = self.model.logprobs(seen.step.hidden[:, 0])
            detoxed, debiased, gaps = self._acting(seen, original)
        base = original.cpu().numpy()
        tuned = base.copy()
        rows = torch.nonzero(detoxed | debiased)[:, 0]
        if len(rows):
            own = original[rows].to(seen.states.dtype)
            hidden, debiased[rows] = self._tuned(seen, rows, own, detoxed[rows], offsets)
            tuned[rows.cpu().numpy()] = self.model.logprobs(hidden).cpu().numpy()
        unnormalised = geometric_mean(tuned, base, settings.fusion) if settings.as_released else None
        mixed = fused(tuned, base, settings.fusion)
        law = nucleus(mixed, settings.top_p, unnormalised)
        return _Laws(
            base, law, divergence(law, base), divergence(mixed, base),
            detoxed.cpu().numpy(), debiased.cpu().numpy(), gaps.cpu().numpy(),
        )  # fmt: skip

    def _acting(self, seen: _Seen, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the losses act before anything is tuned: bool [B] detox and [B] debias; and the gap the latter looks at, [B]."""
        rows = len(seen.states)
        detoxed = torch.zeros(rows, dtype=torch.bool, device=logprobs.device)
        debiased, gaps = detoxed.clone(), torch.full_like(logprobs[:, 0], torch.nan)
        if self._head is not None and self.settings.steps:
            detoxed = torch.sigmoid(self._head.logits(seen.states / seen.count[:, None])) >= self.settings.detox_share
        if self._groups is not None:
            gaps = hellinger_gap(logprobs, self._groups.laws.double())
            debiased = (gaps > self.settings.debias_gap) & (self.settings.steps > 0)
        return detoxed, debiased, gaps

    def _tuned(
        self, seen: _Seen, rows: Tensor, base: Tensor, detoxed: Tensor, offsets: Offsets
    ) -> tuple[Tensor, Tensor]:
        """Tune some rows.

        rows     int64 [rows]
        base     [rows, V], their original log p
        detoxed  bool [rows], where the detox loss acts
        returns  their hidden states after it [rows, D]; and where the debias loss acted at any step, bool [rows]
        """
        settings, model = self.settings, self.model
        values = torch.zeros(len(rows), offsets.width, dtype=base.dtype, device=base.device)
        optimiser = OPTIMISERS[settings.optimiser](settings.learning_rate)
        debiased = torch.zeros_like(detoxed)
        # The Fisher information is asked for by differentiating twice, which only attention written out can.
        with sdpa_kernel(SDPBackend.MATH) if optimiser.natural else nullcontext():
            for _ in range(settings.steps):
                values.requires_grad_()
                loss, logprobs, acted = self._objective(values, seen, rows, base, detoxed, offsets)
                debiased = debiased | acted
                (gradient,) = torch.autograd.grad(loss.sum(), values, retain_graph=optimiser.natural)
                if not bool(torch.isfinite(gradient).all()):
                    raise EngineError(f"UDDIA: the loss has no finite gradient on {model.name}: use float32 or float64")
                geometry = self._geometry(values, logprobs, seen, rows, offsets) if optimiser.natural else None
                change = optimiser.change(gradient, geometry)
                values = (values + change).detach()
        with torch.no_grad(), offsets.added(values):
            return model.again(seen.step, seen.before, rows)[:, 0], debiased

    def _objective(
        self, values: Tensor, seen: _Seen, rows: Tensor, base: Tensor, detoxed: Tensor, offsets: Offsets
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of some rows at given offsets.

        values   [rows, P]
        returns  loss [rows], nats; the tuned log q [rows, V]; and where the debias loss acts, bool [rows]
        """
        settings, model = self.settings, self.model
        with offsets.added(values):
            logits = model.logits(model.again(seen.step, seen.before, rows)[:, 0])
        logprobs = model.normalised(logits)
        debiased = torch.zeros_like(detoxed)
        detox = torch.zeros_like(base[:, 0])
        if self._head is not None and bool(detoxed.any()):
            soft = torch.softmax(logits, dim=-1)[:, None] @ model.embedding
            with offsets.added(values):
                ahead = model.read(seen.step.past.rows(rows), (soft, torch.ones_like(soft[..., 0], dtype=torch.bool)))
            means = (seen.states[rows] + ahead.hidden[:, 0]) / (seen.count[rows, None] + 1)
            detox = torch.where(detoxed, settings.detox * detox_loss(self._head.logits(means)), 0.0)
        debias = torch.zeros_like(detox)
        if self._groups is not None:
            debiased = hellinger_gap(logprobs.detach(), self._groups.laws) > settings.debias_gap
            if settings.as_released:
                debias = torch.where(debiased, settings.debias * detox, 0.0)
            elif bool(debiased.any()):
                costs = debias_costs(self._groups.in_context(seen.bag[rows], seen.count[rows]), self._alone)
                debias = torch.where(debiased, settings.debias * debias_loss(logprobs, costs), 0.0)
        kl = 0.0 if settings.as_released else settings.kl
        return detox + debias + kl * kl_loss(logprobs, base), logprobs, debiased

    def _geometry(self, values: Tensor, logprobs: Tensor, seen: _Seen, rows: Tensor, offsets: Offsets) -> Geometry:
        """That of some rows at given offsets. logprobs: [rows, V], with the graph that leads to values, [rows, P]"""

        @torch.no_grad()
        def divergence(change: Tensor) -> Tensor:
            with offsets.added(values + change):
                hidden = self.model.again(seen.step, seen.before, rows)[:, 0]
            return kl_loss(self.model.normalised(self.model.logits(hidden)), logprobs)

        return Geometry(_fisher(logprobs, values), divergence)


def _fisher(logprobs: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> F v for each row, F = Jᵀ (diag q - q qᵀ) J the Fisher information of the law in the offsets.

    logprobs  [rows, V], with the graph that leads to values, [rows, P]
    """
    law = logprobs.detach().exp()

    def fisher(vectors: Tensor) -> Tensor:
        # J v as the derivative of Jᵀ u · v in u, where u does not matter.
        u = torch.zeros_like(logprobs, requires_grad=True)
        (back,) = torch.autograd.grad(logprobs, values, u, create_graph=True)
        (forth,) = torch.autograd.grad(back, u, vectors)
        spread = law * (forth - (law * forth).sum(dim=1, keepdim=True))
        (product,) = torch.autograd.grad(logprobs, values, spread, retain_graph=True)
        return product

    return fisher
