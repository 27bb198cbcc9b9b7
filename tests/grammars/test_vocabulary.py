"""The tokenizer as bytes, for each kind of tokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from grammars.errors import EngineError
from grammars.vocabulary import Vocabulary, vocabulary_from_tokenizer
from tests.grammars.small import bits

TEXTS = [
    "Crème brûlée, l'été à Besançon: ça coûte 3 €",
    "你好，世界。机器学习",
    "family 👩‍👩‍👧‍👦 flag 🏳️‍🌈 and 🎉",
    "tab\tline\r\n  spaces\u00a0and\u2028more\x00\x7f",
    "ưởng Ω ж א ع",
]


def fast(tokenizer: Tokenizer, **special: str):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ã", "©")]
    vocab = {char: k for k, char in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<turn>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("two words", special=False)])
    return tokenizer


def sentence_piece(decoder: decoders.Decoder) -> Tokenizer:
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "é", "a", "▁▁", "<0x41>x"]
    tokenizer = Tokenizer(models.BPE(vocab={piece: k for k, piece in enumerate(pieces)}, merges=[], byte_fallback=True))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


SENTENCE_PIECE_DECODERS = {
    "llama": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
}


@pytest.mark.parametrize("text", TEXTS)
def test_the_embedded_model_writes_every_text_byte_for_byte(tokenizer, vocabulary, text):
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert vocabulary.decode(tokens) == text.encode()


def test_each_token_of_the_embedded_model_decodes_to_its_bytes(tokenizer, vocabulary):
    for token in range(0, len(tokenizer), 7):
        written = vocabulary.bytes_of(token)
        shown = tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert shown == written.decode(errors="replace")


def test_special_tokens_of_the_embedded_model_write_nothing(tokenizer, vocabulary):
    for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<empty_output>"):
        assert vocabulary.bytes_of(tokenizer.convert_tokens_to_ids(text)) == b""
    assert vocabulary.eos == tokenizer.eos_token_id


def test_byte_level_tokens_write_the_bytes_their_characters_stand_for():
    tokenizer = byte_level()
    vocabulary = vocabulary_from_tokenizer(fast(tokenizer, eos_token="<end>"), 300)
    assert len(vocabulary.tokens) == vocabulary.size == 300
    assert {bytes([byte]) for byte in range(256)} <= set(vocabulary.tokens)
    ids = tokenizer.get_vocab()
    assert vocabulary.bytes_of(ids["Ġthe"]) == b" the"
    assert vocabulary.bytes_of(ids["Ã©"]) == "é".encode()
    assert vocabulary.bytes_of(ids["<think>"]) == b"<think>"
    assert vocabulary.bytes_of(ids["two words"]) == b"two words"
    assert vocabulary.bytes_of(ids["<end>"]) == vocabulary.bytes_of(ids["<turn>"]) == b""
    assert vocabulary.bytes_of(299) == b""
    for text in TEXTS:
        assert vocabulary.decode(tokenizer.encode(text).ids) == text.encode()


@pytest.mark.parametrize("kind", SENTENCE_PIECE_DECODERS)
def test_sentence_piece_tokens_write_spaces_and_bytes(kind):
    tokenizer = sentence_piece(SENTENCE_PIECE_DECODERS[kind])
    vocabulary = vocabulary_from_tokenizer(fast(tokenizer, eos_token="</s>", unk_token="<unk>"), 264)
    expected = {"<0x0A>": b"\n", "<0xE4>": b"\xe4", "▁": b" ", "▁the": b" the", "▁▁": b"  ", "é": "é".encode()}
    for piece, written in (expected | {"<0x41>x": b"<0x41>x", "<unk>": b"", "</s>": b""}).items():
        assert vocabulary.bytes_of(tokenizer.token_to_id(piece)) == written, piece
    # <0x41> and "A" would both write A: ids with the same bytes stay apart.
    assert vocabulary.tokens.count(b"a") == 2
    for text in TEXTS:
        assert vocabulary.decode(tokenizer.encode(text.replace(" ", "▁")).ids) == text.encode()


def test_several_eos_ids_are_silent_and_the_first_stands_for_all():
    ids = byte_level().get_vocab()
    vocabulary = vocabulary_from_tokenizer(fast(byte_level(), eos_token="<end>"), 300, [ids["<think>"], ids["<end>"]])
    assert vocabulary.eos_ids == (ids["<think>"], ids["<end>"]) and vocabulary.eos == ids["<think>"]
    assert vocabulary.bytes_of(ids["<think>"]) == b""


def test_special_tokens_that_are_to_be_written_write_their_text():
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["</thought>"])
    ids = tokenizer.get_vocab()
    written = vocabulary_from_tokenizer(
        fast(tokenizer, eos_token="<end>"), 300, written=("</thought>", "<end>", "none")
    )
    assert written.bytes_of(ids["</thought>"]) == b"</thought>" and written.bytes_of(ids["<end>"]) == b""
    assert vocabulary_from_tokenizer(fast(tokenizer, eos_token="<end>"), 300).bytes_of(ids["</thought>"]) == b""


def test_ids_without_a_column_are_left_out():
    vocabulary = vocabulary_from_tokenizer(fast(byte_level(), eos_token="<end>"), 261)
    assert vocabulary.size == len(vocabulary.tokens) == 261


def test_tokenizers_that_cannot_be_read_are_refused():
    word_piece = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    word_piece.decoder = decoders.WordPiece()
    with pytest.raises(EngineError, match=r"WordPiece.*neither byte-level nor SentencePiece"):
        vocabulary_from_tokenizer(fast(word_piece, eos_token="a"), 3)
    with pytest.raises(EngineError, match="not a fast tokenizer"):
        vocabulary_from_tokenizer(object(), 3)
    with pytest.raises(EngineError, match="pass eos_ids"):
        vocabulary_from_tokenizer(fast(byte_level()), 300)
    with pytest.raises(EngineError, match=r"\(300,\) do not lie among the 300"):
        vocabulary_from_tokenizer(fast(byte_level()), 300, [300])


@pytest.mark.parametrize(
    ("tokens", "eos_ids", "size", "message"),
    [
        ((b"a", b""), (1,), 1, "2 tokens for 1 columns"),
        ((b"a",), (), 2, "give at least one"),
        ((b"a",), (2,), 2, "from 0 to 1"),
        ((b"a",), (0,), 2, "writes b'a'"),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(tokens, eos_ids, size, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens, eos_ids, size)


@given(st.integers(1, 100), st.data())
def test_bitmasks_hold_exactly_their_tokens(size, data):
    vocabulary = Vocabulary((b"",), (0,), size)
    tokens = data.draw(st.sets(st.integers(0, size - 1)))
    mask = vocabulary.bitmask(tokens)
    assert mask.shape == (vocabulary.mask_words,) and mask.dtype == np.int32
    assert set(np.flatnonzero(bits(mask, size)).tolist()) == tokens


def test_tokenizer_json_without_a_decoder_is_read_by_its_pre_tokenizer():
    tokenizer = byte_level()
    layout = json.loads(tokenizer.to_str())
    layout["decoder"] = None
    vocabulary = vocabulary_from_tokenizer(fast(Tokenizer.from_str(json.dumps(layout)), eos_token="<end>"), 300)
    assert vocabulary.bytes_of(tokenizer.token_to_id("Ġthe")) == b" the"
