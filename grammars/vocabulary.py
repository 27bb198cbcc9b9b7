"""The tokenizer as bytes: what each id writes. Made once per model."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from grammars.errors import EngineError


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token ids and the bytes they write.

    tokens      one bytes object an id; b"" for special tokens and for padded ids, which no constraint ever accepts as text
    eos_ids     every id that ends a sequence; all of them mean `eos`, the first
    size        columns of the model's logits, padded ids included: len(tokens) <= size
    """

    tokens: tuple[bytes, ...]
    eos_ids: tuple[int, ...]
    size: int

    def __post_init__(self) -> None:
        if len(self.tokens) > self.size:
            raise ValueError(
                f"{len(self.tokens)} tokens for {self.size} columns of logits: leave out the ids without a column"
            )
        if not self.eos_ids or not all(0 <= eos < self.size for eos in self.eos_ids):
            raise ValueError(f"eos_ids={self.eos_ids}: give at least one id, each from 0 to {self.size - 1}")
        for eos in self.eos_ids:
            if self.bytes_of(eos):
                raise ValueError(f"token {eos} ends a sequence but writes {self.bytes_of(eos)!r}: make its bytes b''")

    @property
    def eos(self) -> int:
        """The id that stands for the end of the sequence in masks, samplers and results."""
        return self.eos_ids[0]

    @property
    def mask_words(self) -> int:
        """int32 words of a bitmask."""
        return (self.size + 31) // 32

    def bytes_of(self, token: int) -> bytes:
        return self.tokens[token] if token < len(self.tokens) else b""

    def decode(self, tokens: np.ndarray | list[int]) -> bytes:
        return b"".join(self.bytes_of(int(t)) for t in tokens)

    def bitmask(self, tokens: Iterable[int] | np.ndarray) -> np.ndarray:
        """The bitmask of a set of ids: int32 [mask_words], bit t % 32 of word t // 32 is token t. Read-only."""
        mask = np.zeros(self.mask_words * 32, dtype=np.uint8)
        mask[tokens if isinstance(tokens, np.ndarray) else np.fromiter(tokens, dtype=np.int64)] = 1
        words = np.packbits(mask, bitorder="little").view("<i4")
        words.flags.writeable = False
        return words

    @cached_property
    def writes(self) -> bytes:
        """One byte a column: 1 where the id writes text."""
        return bytes(map(bool, self.tokens)).ljust(self.size, b"\0")

    @cached_property
    def text_bitmask(self) -> np.ndarray:
        """The ids that write at least one byte: int32 [mask_words], read-only."""
        return self.bitmask(t for t, written in enumerate(self.tokens) if written)

    @cached_property
    def by_bytes(self) -> tuple[list[bytes], list[int]]:
        """What the text tokens write, ascending, and beside it their ids: a trie to walk by bisection."""
        order = sorted((written, t) for t, written in enumerate(self.tokens) if written)
        return [written for written, _ in order], [t for _, t in order]

    def token_of(self, written: bytes) -> int | None:
        """The text token that writes just these bytes, of several the one with the highest id; None where none does."""
        pieces, ids = self.by_bytes
        at = bisect_right(pieces, written) - 1
        return ids[at] if at >= 0 and pieces[at] == written else None


def vocabulary_from_tokenizer(
    tokenizer: Any, vocab_size: int, eos_ids: Sequence[int] | None = None, written: Sequence[str] = ()
) -> Vocabulary:
    """What every id of a transformers tokenizer writes inside a text.

    Byte-level BPE (GPT-2, SmolLM, Llama 3, Qwen) and SentencePiece-like tokenizers (U+2581 for a space, `<0x0A>` for a
    byte) are read exactly as their decoders do, except that a text's first space stays: what is written follows a prompt.
    Special tokens write nothing; added tokens that are not special write their text. Ids past vocab_size are left out:
    the model has no column for them.

    tokenizer   a fast tokenizer (`PreTrainedTokenizerFast` or newer), duck-typed: transformers is not imported
    vocab_size  columns of the model's logits
    eos_ids     ids that end a text, the one to use first; by default the tokenizer's own
    written     special tokens that write their text all the same, such as the end of a model's thoughts
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EngineError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, so the bytes of its tokens cannot be read; "
            "use a model whose folder has a tokenizer.json"
        )
    if eos_ids is None:
        own = tokenizer.eos_token_id
        eos_ids = () if own is None else tuple(own) if isinstance(own, (list, tuple)) else (own,)
    eos_ids = tuple(dict.fromkeys(int(eos) for eos in eos_ids))
    if not eos_ids or not all(0 <= eos < vocab_size for eos in eos_ids):
        raise EngineError(
            f"end-of-sequence ids {eos_ids} do not lie among the {vocab_size} columns of the model's logits; "
            "pass eos_ids, e.g. from the model's generation_config.json"
        )
    silent = set(eos_ids) | {int(t) for t in tokenizer.all_special_ids}
    silent |= {t for t, added in backend.get_added_tokens_decoder().items() if added.special}
    silent -= {t for text in written if (t := backend.token_to_id(text)) is not None} - set(eos_ids)
    written_by = _reader(json.loads(backend.to_str()))
    tokens = [b""] * vocab_size
    for token, t in backend.get_vocab(with_added_tokens=True).items():
        if t < vocab_size and t not in silent:
            tokens[t] = written_by(token)
    return Vocabulary(tuple(tokens), eos_ids, vocab_size)


def _reader(layout: dict[str, Any]) -> Callable[[str], bytes]:
    """How a tokenizer's decoder turns one token's name into bytes, from its tokenizer.json."""
    parts = _flat(layout.get("decoder")) or _flat(layout.get("pre_tokenizer"))
    kinds = {part["type"] for part in parts}
    if "ByteLevel" in kinds:
        return _byte_level
    replaced = {part["pattern"].get("String"): part["content"] for part in parts if part["type"] == "Replace"}
    marker = next((part["replacement"] for part in parts if part["type"] == "Metaspace"), None)
    if marker is not None:
        replaced[marker] = " "
    if not replaced and "ByteFallback" not in kinds:
        known = ", ".join(sorted(kinds)) or "none"
        raise EngineError(
            f"the tokenizer's decoder ({known}) is neither byte-level nor SentencePiece-like, so the bytes of its tokens "
            "are not known; use a model with such a tokenizer"
        )
    fallback = "ByteFallback" in kinds or bool(layout["model"].get("byte_fallback"))

    def sentence_piece(token: str) -> bytes:
        if fallback and (byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)):
            return bytes([int(byte[1], 16)])
        for pattern, content in replaced.items():
            token = token.replace(pattern, content)
        return token.encode()

    return sentence_piece


def _flat(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The elementary parts of a decoder or pre-tokenizer of tokenizer.json."""
    if part is None:
        return []
    inner = part.get("decoders") or part.get("pretokenizers")
    return [part] if inner is None else [leaf for one in inner for leaf in _flat(one)]


def _byte_level(token: str) -> bytes:
    """A byte-level token's bytes; a token with a character outside the byte alphabet stands for its own text."""
    try:
        return bytes(_BYTE_OF[char] for char in token)
    except KeyError:
        return token.encode()


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte, inverted. Source: OpenAI, GPT-2 `encoder.py`, bytes_to_unicode."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + k): byte for k, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
