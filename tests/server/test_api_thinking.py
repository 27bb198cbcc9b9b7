"""Thought and answer are told apart the same way, however a text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api_thinking import Thinking, Thoughts, parted, thought_tokens

R1 = Thinking("<think>", "</think>")
PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", "a", " ", "\n", "é"]), max_size=12)


@pytest.mark.parametrize(
    ("text", "thinking", "thought", "answer"),
    [
        ("<think>ab</think>cd", R1, "ab", "cd"),
        ("ab</think>cd</think>", R1, "ab", "cd</think>"),
        ("ab", R1, "ab", None),
        ("<thi", R1, "<thi", None),
        ("<think>ab</thi", R1, "ab</thi", None),
        ("a <think>b</think>", R1, "a <think>b", ""),
        ("", R1, "", None),
        ("<think>ab.cd", Thinking(None, "."), "<think>ab", "cd"),
    ],
)
def test_a_thought_ends_with_its_mark(text: str, thinking: Thinking, thought: str, answer: str | None):
    assert parted(text, thinking) == (thought, answer)


@pytest.mark.parametrize(
    ("pieces", "thinking", "count"),
    [
        (["<think>", "a", "bé", "</think>", "c"], R1, 2),
        (["<", "think>", "a", "", "b</", "think", ">", "c"], R1, 2),
        (["a", "b"], R1, 2),
        (["</think>", "c"], R1, 0),
        (["a.", ".", "c"], Thinking(None, "."), 1),
        ([], R1, 0),
    ],
)
def test_the_tokens_of_a_thought_are_those_that_begin_in_it(pieces: list[str], thinking: Thinking, count: int):
    assert thought_tokens([piece.encode() for piece in pieces], thinking) == count


@given(PIECES, st.sampled_from([R1, Thinking(None, "</think>"), Thinking(None, "aa")]))
def test_pieces_do_not_matter_and_nothing_is_retracted(pieces: list[str], thinking: Thinking):
    thoughts = Thoughts(thinking)
    told = [thoughts.feed(piece) for piece in pieces]
    thought = "".join(one for one, _ in told) + thoughts.rest()
    answer = "".join(one for _, one in told)
    assert parted("".join(pieces), thinking) == (thought, answer if thoughts.ended else None)
