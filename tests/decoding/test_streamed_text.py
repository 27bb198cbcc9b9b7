"""Streamed text: whole characters, nothing of a stop string, and the same text however it is cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decoding.request import finished_text
from decoding.streamed_text import StreamedText


def streamed(pieces: list[bytes], stops: tuple[str, ...], stopped: bool) -> list[str]:
    text = StreamedText(stops)
    return [*(text.feed(piece) for piece in pieces), text.end(stopped)]


def test_half_a_character_is_held_back():
    assert streamed([b"a\xc3", b"\xa9b", b"\xf0\x9f", b"\x99\x82"], (), False) == ["a", "éb", "", "🙂", ""]


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none():
    assert streamed([b"ab<", b"/", b"p>"], ("</s>",), False) == ["ab", "", "</p>", ""]
    assert streamed([b"ab<", b"/", b"s>c"], ("</s>",), True) == ["ab", "", "", ""]


def test_what_was_held_back_comes_at_the_end_unless_the_stop_string_came():
    assert streamed([b"ab<"], ("<x",), False) == ["ab", "<"]
    assert streamed([b"ab\xc3"], (), False) == ["ab", "\ufffd"]


@given(st.text("abé", max_size=12), st.lists(st.text("abé", min_size=1, max_size=3), max_size=3), st.data())
def test_any_cutting_into_pieces_gives_the_text_up_to_the_first_stop(text: str, stops: list[str], data: st.DataObject):
    data_bytes = text.encode()
    # As the engine does it: nothing is fed after the piece that ends a stop string.
    pieces, rest = [], data_bytes
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append(rest[:size])
        rest = rest[size:]
        if any(stop.encode() in b"".join(pieces) for stop in stops):
            break
    fed = b"".join(pieces).decode(errors="ignore")
    stopped = any(stop in fed for stop in stops)
    assert "".join(streamed(pieces, tuple(stops), stopped)).rstrip("\ufffd") == finished_text(fed, stops)
