"""A causal language model of transformers, run by torch itself: gradients, and each row's own past as a value."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decoding.embedded_model import embedded_model_path
from grammars.errors import EngineError, RequestError
from grammars.vocabulary import Vocabulary, vocabulary_from_tokenizer

# Where architectures of transformers keep their layers, and the norm after the last.
_LAYERS = ("layers", "h")
_NORMS = ("norm", "ln_f", "final_layer_norm")
# Stands in a kept call for the cache, of which each pass has its own.
_PAST = object()

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Past:
    """What the rows have read so far. A value: no pass changes it.

    keys, values  one a layer: [B, heads, L, width]
    seen          bool [B, L]: False where a shorter row is padded, on the left
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    seen: Tensor

    def rows(self, chosen: Tensor) -> Past:
        """The same of some rows. chosen: int64 [rows]"""
        return Past(tuple(k[chosen] for k in self.keys), tuple(v[chosen] for v in self.values), self.seen[chosen])


@dataclass(frozen=True, eq=False)
class Step:
    """One pass over tokens.

    hidden  [B, T, D]: the last hidden states, after the final norm
    past    what the rows have read now
    calls   how each of the top layers was called: its input, positional arguments and keywords
    """

    hidden: Tensor
    past: Past
    calls: tuple[Call, ...]


class TorchModel:
    """A `LanguageModel` on a transformers causal LM with full attention; its weights are never changed.

    model       in evaluation mode from here on, and without gradients of its own weights
    vocabulary  its tokenizer as bytes, as many columns as its logits
    tokenizer   for prompts and results as text; None where token ids will do

    Raises EngineError for an architecture of which this does not know the parts, or whose parts do not give its own logits.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, tokenizer: Any = None) -> None:
        self._model = model.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        self.tokenizer = tokenizer
        name = str(model.config.name_or_path or type(model).__name__)
        self.name = os.path.basename(name) if os.path.isdir(name) else name
        self._trunk: nn.Module = model.base_model
        self.layers: Sequence[nn.Module] = _part(self._trunk, _LAYERS, self.name)
        self.final_norm: nn.Module = _part(self._trunk, _NORMS, self.name)
        self.embedding: Tensor = model.get_input_embeddings().weight
        self._head: nn.Module = model.get_output_embeddings()
        kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise EngineError(f"{self.name}: layers of {', '.join(sorted(kinds))}: only full attention is known here")
        if self._head.weight.shape[0] != vocabulary.size:
            raise EngineError(
                f"{self.name}: {self._head.weight.shape[0]} columns of logits, but the vocabulary has {vocabulary.size}; "
                "make the vocabulary with that size"
            )
        self._check_parts()

    @staticmethod
    def load(model: str | os.PathLike[str] | None = None, dtype: str = "float32", device: str = "cpu") -> TorchModel:
        """A model folder or hub name; None is the embedded model. dtype: float32, float64 or bfloat16. Raises EngineError."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from decoding.engine import existing_model

        if dtype not in ("float32", "float64", "bfloat16"):
            raise RequestError(f"dtype={dtype!r:.80}: float32, float64 or bfloat16 was wanted")
        path = str(embedded_model_path() if model is None else existing_model(model))
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            loaded = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).to(device)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise EngineError(f"model {path} cannot be loaded: {type(error).__name__}: {error}") from error
        eos = loaded.generation_config.eos_token_id
        eos_ids = None if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,)
        columns = loaded.get_output_embeddings().weight.shape[0]
        return TorchModel(loaded, vocabulary_from_tokenizer(tokenizer, columns, eos_ids), tokenizer)

    def __repr__(self) -> str:
        return f"TorchModel({self.name})"

    @property
    def hidden_size(self) -> int:
        return int(self.embedding.shape[1])

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit its context, or None where there is no limit to it."""
        return getattr(self._model.config, "max_position_embeddings", None)

    def next_logprobs(self, prefix: Sequence[int]) -> np.ndarray:
        """Normalised log p of every next token: float64 [V], the mass of all EOS ids on `vocabulary.eos`."""
        with torch.no_grad():
            hidden = self.read(None, self.padded([self.checked(prefix)])).hidden
            return np.asarray(self.logprobs(hidden[:, -1])[0].cpu())

    # The pieces that adaptation is made of

    def encode(self, text: str) -> list[int]:
        """A prompt's tokens, as the tokenizer makes them by default. Raises RequestError."""
        if self.tokenizer is None:
            raise RequestError(f"{self.name} was given no tokenizer: give prompts as token ids")
        return list(self.tokenizer(text)["input_ids"])

    def checked(self, tokens: Sequence[int], room: int = 0, place: str = "prompt") -> tuple[int, ...]:
        """The tokens, if the model has them all and `room` more fit its context. Raises RequestError."""
        if not len(tokens):
            raise RequestError(
                f"{place}: no tokens: the law of a first token needs at least one before it, such as BOS"
            )
        for index, token in enumerate(tokens):
            if isinstance(token, bool) or not isinstance(token, Integral) or not 0 <= token < len(self.embedding):
                raise RequestError(
                    f"{place}: token {index} is {token!r:.40}: ids go from 0 to {len(self.embedding) - 1}"
                )
        if self.max_tokens is not None and len(tokens) + room > self.max_tokens:
            raise RequestError(
                f"{place}: {len(tokens)} tokens and {room} more do not fit the model's context of {self.max_tokens}"
            )
        return tuple(int(token) for token in tokens)

    def padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Rows side by side, shorter ones padded on the left: int64 [B, T] and bool [B, T], False where padded."""
        width = max(map(len, prompts))
        tokens = torch.zeros(len(prompts), width, dtype=torch.int64, device=self.device)
        real = torch.zeros(len(prompts), width, dtype=torch.bool, device=self.device)
        for row, prompt in enumerate(prompts):
            if len(prompt):
                tokens[row, width - len(prompt) :] = torch.tensor(list(prompt))
                real[row, width - len(prompt) :] = True
        return tokens, real

    def read(self, past: Past | None, tokens: tuple[Tensor, Tensor], top: int = 0) -> Step:
        """Read tokens after a past.

        tokens  int64 [B, T] ids, or embeddings [B, T, D]; and bool [B, T]: which of them are no padding
        top     how many of the top layers' calls to keep, for `again`
        """
        given, real = tokens
        seen = real if past is None else torch.cat([past.seen, real], dim=1)
        positions = (seen.long().cumsum(dim=1) - 1).clamp_min(0)[:, -real.shape[1] :]
        cache = _cache(past)
        calls: list[Call] = []
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, positional, keywords: calls.append((positional, keywords)), with_kwargs=True
            )
            for layer in self.layers[len(self.layers) - top :]
        ]
        try:
            outputs = self._trunk(
                **{"inputs_embeds" if given.is_floating_point() else "input_ids": given},
                attention_mask=seen.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        finally:
            for hook in hooks:
                hook.remove()
        kept = [_with(call, cache, _PAST) for call in calls]
        after = Past(tuple(layer.keys for layer in cache.layers), tuple(layer.values for layer in cache.layers), seen)
        return Step(outputs.last_hidden_state, after, tuple(kept))

    def again(self, step: Step, past: Past | None, rows: Tensor) -> Tensor:
        """The top layers once more, as `step` has called them: for what hooks on them change.

        past     what stood before the step; it is not changed, nor is the step's
        rows     int64 [rows]: those of the step's rows to run
        returns  the hidden states of these rows after the final norm, [rows, T, D]
        """
        count = len(step.hidden)
        cache = _cache(None if past is None else past.rows(rows), len(self.layers))
        top = self.layers[len(self.layers) - len(step.calls) :]
        hidden = _of_rows(_hidden_of(step.calls[0]), rows, count)
        for layer, call in zip(top, step.calls, strict=True):
            others, keywords = _with(_of_rows(call, rows, count), _PAST, cache)
            if others:
                others = (hidden, *others[1:])
            else:
                keywords["hidden_states"] = hidden
            output = layer(*others, **keywords)
            hidden = output[0] if isinstance(output, tuple) else output
        return self.final_norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] from hidden states after the final norm, [..., D]."""
        return self._head(hidden)

    def logprobs(self, hidden: Tensor) -> Tensor:
        """Normalised log p, float64 [B, V], the mass of all EOS ids on `vocabulary.eos`.

        hidden  [B, D], after the final norm. Raises EngineError where they are no numbers.
        """
        logprobs = self.normalised(self.logits(hidden).double())
        if bool(logprobs.isnan().any()):
            row = int(logprobs.isnan().any(dim=-1).nonzero()[0])
            raise EngineError(
                f"{self.name}: the logits of row {row} are not numbers: use a dtype that holds its activations"
            )
        return logprobs

    def normalised(self, logits: Tensor) -> Tensor:
        """log softmax [B, V] of logits, the mass of all EOS ids on `vocabulary.eos`."""
        logprobs = torch.log_softmax(logits, dim=-1)
        eos, *others = self.vocabulary.eos_ids
        if others:
            merged = torch.logsumexp(logprobs[:, [eos, *others]], dim=-1)
            logprobs = logprobs.clone()
            logprobs[:, eos] = merged
            logprobs[:, others] = -torch.inf
        return logprobs

    def _check_parts(self) -> None:
        """Whether the parts named here are the whole: what they give is what the model itself gives."""
        tokens = torch.arange(3, device=self.device)[None] % len(self.embedding)
        real = torch.ones_like(tokens, dtype=torch.bool)
        with torch.no_grad():
            first = self.read(None, (tokens[:, :2], real[:, :2]))
            step = self.read(first.past, (tokens[:, 2:], real[:, 2:]), top=1)
            parts = {
                "layers": self.logits(
                    self.again(step, first.past, torch.zeros(1, dtype=torch.int64, device=self.device))
                )[0],
                "embedding": self.logits(self.read(None, (self.embedding[tokens], real)).hidden)[0, -1:],
            }
            whole = self._model(tokens).logits[0, -1:]
        for part, logits in parts.items():
            if not torch.allclose(logits, whole, atol=torch.finfo(whole.dtype).eps ** 0.5 * float(whole.abs().max())):
                raise EngineError(
                    f"{self.name} ({type(self._model).__name__}): its {part} alone do not give its logits, so that it has "
                    "parts which are not known here; use a Llama-, Qwen- or GPT-2-like model"
                )


def _part(trunk: nn.Module, names: Sequence[str], model: str) -> Any:
    found = [getattr(trunk, name) for name in names if hasattr(trunk, name)]
    if len(found) != 1:
        raise EngineError(
            f"{model} ({type(trunk).__name__}): none of {', '.join(names)} is a part of it; use a Llama-, Qwen- or GPT-2-like model"
        )
    return found[0]


def _cache(past: Past | None, layers: int = 0) -> Any:
    """A cache of transformers that begins with a past: it grows by new tensors, so that the past stays as it is."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    if past is not None and past.keys:
        # Put there instead of through `update`, which would copy them.
        cache.layers = [DynamicLayer() for _ in past.keys]
        for layer, keys, values in zip(cache.layers, past.keys, past.values, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
    elif layers:
        cache.layers = [DynamicLayer() for _ in range(layers)]
    return cache


def _with(call: Call, old: object, new: object) -> Call:
    """A layer's arguments with one of them exchanged."""
    positional, keywords = call
    return (
        tuple(new if value is old else value for value in positional),
        {name: new if value is old else value for name, value in keywords.items()},
    )


def _hidden_of(call: Call) -> Tensor:
    positional, keywords = call
    return positional[0] if positional else keywords["hidden_states"]


def _of_rows(value: Any, rows: Tensor, count: int) -> Any:
    """What a layer was given, for some of its `count` rows; what is the same for all of them stays as it is."""
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and value.shape[0] == count and count > 1 else value
    if isinstance(value, tuple):
        return tuple(_of_rows(one, rows, count) for one in value)
    if isinstance(value, dict):
        return {name: _of_rows(one, rows, count) for name, one in value.items()}
    return value
