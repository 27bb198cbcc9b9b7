"""Any sequence classifier of transformers as a signal: slower than a linear one, and it reads more than words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decoding.hub import require_hub_model
from grammars.errors import EngineError

PREFIX = "transformers:"


class TransformersSignal:
    """log odds of one label of a classifier, in float32 on one device.

    Where labels exclude each other (a softmax over two or more) that is log p / (1 - p) of the label; where they do not (one
    sigmoid a label), its logit. A text longer than the model takes is read from its end backwards.
    """

    def __init__(self, name_or_path: str, label: str | None = None, device: str = "cpu", batch: int = 32) -> None:
        """Load a folder, or a model of the hub by its name.

        label   the one that says a text is unwanted; may be left out where there is only one
        raises  EngineError naming the model and the remedy: it is missing, has no head for sequences, or no such label
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if not Path(name_or_path).is_dir():
            require_hub_model(name_or_path)
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                name_or_path, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, truncation_side="left")
        except (OSError, ValueError, KeyError) as error:
            raise EngineError(
                f"cannot load {name_or_path!r} as a sequence classifier: {error}; give a folder that transformers' "
                "AutoModelForSequenceClassification and AutoTokenizer can read"
            ) from error
        if missing := sorted(loading["missing_keys"]):
            raise EngineError(
                f"{name_or_path!r} is no trained sequence classifier: it has no weights for {', '.join(missing[:3])}; "
                "name a model with a classification head"
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None:
            raise EngineError(
                f"the tokenizer of {name_or_path!r} has neither a padding nor an end token; set its pad_token"
            )
        if model.config.pad_token_id is None:  # decoders find a text's last token by it
            model.config.pad_token_id = tokenizer.pad_token_id
        self._column = _column(name_or_path, model.config, label)
        self._exclusive = model.config.num_labels > 1 and model.config.problem_type != "multi_label_classification"
        self._model = model.to(device).eval()
        self._tokenizer, self._device, self._batch = tokenizer, device, batch
        # RoBERTa and its kin count positions from 2 on.
        self._longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 514) - 2)
        self.label: str = model.config.id2label[self._column]
        self.name = f"{PREFIX}{name_or_path}#{self.label}"

    def log_odds(self, texts: Sequence[str]) -> np.ndarray:
        """See `Signal`: float64 [len(texts)]. Batches change rounding alone."""
        import torch

        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of texts, not the one text {texts[:40]!r}: put it in a list")
        found = np.zeros(len(texts))
        # Texts of like length side by side, so that little is padding.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), self._batch):
            places = order[start : start + self._batch]
            with torch.inference_mode():
                logits = self._model(**self._encoded([texts[place] for place in places])).logits.double()
            chosen = logits[:, self._column]
            if self._exclusive:
                others = torch.cat([logits[:, : self._column], logits[:, self._column + 1 :]], dim=1)
                chosen = chosen - others.logsumexp(dim=1)
            found[places] = chosen.cpu().numpy()
        return found

    def _encoded(self, texts: Sequence[str]) -> Any:
        """Ids and mask, padded on the right. A text without a token is read as one of padding."""
        tokens = self._tokenizer(list(texts), truncation=True, max_length=self._longest)
        for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True):
            if not ids:
                ids.append(self._tokenizer.pad_token_id)
                mask.append(1)
        kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return self._tokenizer.pad(kept, padding_side="right", return_tensors="pt").to(self._device)


def _column(model: str, config: Any, label: str | None) -> int:
    """The number of a label, by its name."""
    labels: dict[int, str] = {int(number): name for number, name in config.id2label.items()}
    listed = ", ".join(repr(name) for name in labels.values())
    if config.problem_type == "regression":
        raise EngineError(f"{model!r} is a regression, whose output is no probability; name a classifier")
    if label is None:
        if len(labels) > 1:
            raise EngineError(
                f"{model!r} has the labels {listed}: say which one is unwanted, as in {PREFIX}{model}#LABEL"
            )
        return next(iter(labels))
    found = [number for number, name in labels.items() if name == label]
    found = found or [number for number, name in labels.items() if name.casefold() == label.casefold()]
    if len(found) != 1:
        raise EngineError(f"{model!r} has no label {label!r}; it has {listed}")
    return found[0]
