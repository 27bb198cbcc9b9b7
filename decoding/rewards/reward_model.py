"""A reward model of transformers: a sequence classifier that reads prompt and answer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from grammars.errors import EngineError, RequestError
from samplers.reward import Candidate, reward


@reward("reward_model")
class RewardModel:
    """The logit of a one-label classifier, or the log-probability of one label of several.

    The model reads the prompt and the answer as its chat template shows them, or, where it has none, as a pair of texts. A
    pair longer than its context cannot be judged.

    model       a folder or a hub name, as of AutoModelForSequenceClassification; loaded once and kept
    label       name or number of the label whose log-probability is the reward; needed where there are several
    device      of torch, such as "cuda:1"
    batch_size  texts at once
    max_length  tokens; by default the model's context
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        label: str | int | None = None,
        device: str = "cpu",
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("max_length", max_length)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RequestError(f"reward_model: {name}={value!r:.80}: a whole number of at least 1 was wanted")
        self._name, self._batch_size = os.fspath(model), batch_size
        self._model, self._tokenizer = _loaded(self._name, device)
        config = self._model.config
        self._label = self._label_index(label, config)
        self._room = max_length or getattr(config, "max_position_embeddings", None) or self._tokenizer.model_max_length

    def _label_index(self, label: str | int | None, config: Any) -> int | None:
        names = {int(index): str(name) for index, name in config.id2label.items()}
        if label is None and config.num_labels == 1:
            return None
        found = [index for index, name in names.items() if label in (index, name) and not isinstance(label, bool)]
        if len(found) != 1:
            raise RequestError(
                f"reward_model: label={label!r:.80}: one of {', '.join(map(repr, names.values()))} was wanted for {self._name}"
            )
        return found[0]

    def __repr__(self) -> str:
        return f"reward_model {self._name}"

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        encoded = [self._encoded(one) for one in candidates]
        scores = np.full(len(candidates), math.nan)
        # Texts of like length stand together: what is padded is computed in vain.
        fitting = [k for k in range(len(candidates)) if 0 < len(encoded[k]["input_ids"]) <= self._room]
        fitting.sort(key=lambda k: len(encoded[k]["input_ids"]))
        for start in range(0, len(fitting), self._batch_size):
            some = fitting[start : start + self._batch_size]
            scores[some] = self._scores([encoded[k] for k in some])
        return scores

    def _encoded(self, one: Candidate) -> dict[str, Any]:
        tokenizer = self._tokenizer
        if getattr(tokenizer, "chat_template", None):
            talk = [{"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.text}]
            text = tokenizer.apply_chat_template(talk, tokenize=False)
            return dict(tokenizer(text, add_special_tokens=False, verbose=False))
        return dict(tokenizer(one.prompt, one.text, verbose=False))

    def _scores(self, encoded: Sequence[dict[str, Any]]) -> np.ndarray:
        """float64 [batch]"""
        import torch

        batch = self._tokenizer.pad(list(encoded), return_tensors="pt", padding_side="right").to(self._model.device)
        with torch.inference_mode():
            logits = self._model(**batch).logits.double()
        if self._label is not None:
            return np.asarray(torch.log_softmax(logits, dim=-1)[:, self._label].cpu())
        return np.asarray(logits[:, 0].cpu())


@lru_cache(maxsize=2)
def _loaded(model: str, device: str) -> tuple[Any, Any]:
    """The model, ready to judge, and its tokenizer. Raises EngineError."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from decoding.engine import existing_model

    path = existing_model(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        classifier, report = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
        classifier = classifier.to(device).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise EngineError(f"reward_model: {model} cannot be loaded: {type(error).__name__}: {error}") from error
    if report["missing_keys"]:
        raise EngineError(
            f"reward_model: {model} is no sequence classifier: it has no {sorted(report['missing_keys'])[0]}, which would be random"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    classifier.config.pad_token_id = tokenizer.pad_token_id
    return classifier, tokenizer
