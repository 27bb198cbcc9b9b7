"""The vocabulary of the model an engine runs, made once a process and model."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from decoding.vllm_reasoning import reasoning_parser, thought_marks
from grammars.vocabulary import Vocabulary, vocabulary_from_tokenizer

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def vocabulary_of(vllm_config: VllmConfig) -> Vocabulary:
    """The vocabulary of an engine's model: its tokenizer's bytes, every id that ends a text, the columns of its logits.

    A special token that begins or ends the model's thoughts, by the engine's reasoning parser, writes its text.
    """
    model = vllm_config.model_config
    generation = model.try_get_generation_config()
    eos = generation.get("eos_token_id")
    eos_ids = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
    return _vocabulary(
        model.tokenizer,
        model.tokenizer_revision,
        model.trust_remote_code,
        model.get_vocab_size(),
        eos_ids,
        reasoning_parser(vllm_config),
    )


@lru_cache(maxsize=4)
def _vocabulary(
    tokenizer: str,
    revision: str | None,
    trust_remote_code: bool,
    size: int,
    eos_ids: tuple[int, ...],
    reasoning: tuple[str, str],
) -> Vocabulary:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer, revision=revision, trust_remote_code=trust_remote_code)
    return vocabulary_from_tokenizer(loaded, size, eos_ids or None, written=thought_marks(*reasoning, loaded))
