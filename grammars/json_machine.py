"""JSON texts read byte by byte, judged by a schema as they are read. A state is a value; a step costs what its bytes cost.

What is refused besides invalid JSON and invalid values: a repeated key, a lone surrogate, a number of more than
`LONGEST_NUMBER` characters, one with a fraction or an exponent beyond a double's range, white space around the whole text,
and white space that the layout does not ask for.
Source of the grammar: RFC 8259.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from itertools import pairwise
from typing import Any

from grammars import json_sets
from grammars.json_evaluation import (
    COUNTED,
    EVALUATED,
    INVALID,
    MUST,
    OPEN,
    UNEVALUATED,
    VALID,
    Link,
    Member,
    Plan,
    Verdicts,
)
from grammars.json_nodes import ARRAY, OBJECT
from grammars.json_numbers import LONGEST_NUMBER, decimal_of

# Where a text is, between bytes.
_VALUE, _FIRST, _KEY, _COLON, _AFTER, _STRING, _KEY_STRING, _NUMBER, _LITERAL, _END = range(10)

_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_DIGITS = re.compile(rb"[0-9+\-.eE]*")
_BEGUN_NUMBER = re.compile(rb"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*|(?:\.[0-9]+)?(?:[eE](?:[+-]?[0-9]*)?)?)?)?")
_WHOLE_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LITERALS = {0x74: (b"true", True), 0x66: (b"false", False), 0x6E: (b"null", None)}
_ESCAPES = {0x22: '"', 0x5C: "\\", 0x2F: "/", 0x62: "\b", 0x66: "\f", 0x6E: "\n", 0x72: "\r", 0x74: "\t"}
# Numbers of so many characters are what their nearest double is written as: it has 15 digits at least.
EXACT_CHARACTERS = 15

_HEX = frozenset(b"0123456789abcdefABCDEF")
_SPACES = frozenset(b" \t\n\r")

_NO_COUNTS: dict[int, int] = {}
_NONE_UNEVALUATED: frozenset[tuple[int, int]] = frozenset()


class _Frame:
    """An array or object that is open. A value: it is copied, never changed, once a state holds it.

    above    the frame around it, None for the outermost
    member   how it is judged itself: its plan, and what `above` asks of it
    verdicts of its plan's roots, as they stand
    keys     names it has; the values of its items, where they must differ
    rank     the highest place in the order of names that has come; passed: bits of the keys that can then no longer come
    values   (value key, those before), where its own value will be compared
    """

    __slots__ = (
        "above", "capture", "count", "counts", "depth", "failed", "keys", "kind", "member", "passed", "present", "rank",
        "unevaluated", "values", "verdicts",
    )  # fmt: skip

    above: _Frame | None
    member: Member
    kind: int
    depth: int
    capture: bool
    count: int
    present: int
    rank: int
    passed: int
    failed: int
    counts: dict[int, int]
    unevaluated: frozenset[tuple[int, int]]
    keys: json_sets.Set
    values: Any
    verdicts: Verdicts

    def copy(self) -> _Frame:
        other = _Frame.__new__(_Frame)
        other.above = self.above
        other.member = self.member
        other.kind = self.kind
        other.depth = self.depth
        other.capture = self.capture
        other.count = self.count
        other.present = self.present
        other.rank = self.rank
        other.passed = self.passed
        other.failed = self.failed
        other.counts = self.counts
        other.unevaluated = self.unevaluated
        other.keys = self.keys
        other.values = self.values
        other.verdicts = self.verdicts
        return other

    def judged(self, started: int, refused: int = 0, member: Member | None = None, verdicts: Verdicts = ()) -> Verdicts:
        """The verdicts of the roots while the frame is open.

        refused           bits of the nodes that the name being written makes invalid
        member, verdicts  the member being written, and how it stands
        """
        plan = self.member.plan
        if not plan.nodes:
            return ()
        failed, counts, unevaluated = self.failed | refused, self.counts, self.unevaluated
        waiting = maybe = 0
        if member is not None and member.links:
            failed, counts, unevaluated = _told(member, verdicts, failed, counts, unevaluated, False)
            for what, i, k in member.links:
                if verdicts[k] == OPEN:
                    waiting |= (what == MUST) << i
                    maybe |= (what in (EVALUATED, COUNTED)) << i
        # A member of an object counts from its name on.
        count = started if member is not None and self.kind == OBJECT else self.count
        return plan.container(
            self.kind,
            count,
            started,
            False,
            self.present,
            self.passed,
            failed,
            waiting,
            counts,
            unevaluated,
            None,
            maybe,
        )


def _told(
    member: Member,
    verdicts: Verdicts,
    failed: int,
    counts: dict[int, int],
    unevaluated: frozenset[tuple[int, int]],
    ended: bool,
) -> tuple[int, dict[int, int], frozenset[tuple[int, int]]]:
    """What the nodes of a frame learn from a member's verdicts."""
    links: tuple[Link, ...] = member.links
    cover, found = member.cover, 0
    late: list[int] = []
    for what, i, r in links:
        verdict = verdicts[r]
        if what == MUST:
            if verdict == INVALID:
                failed |= 1 << i
        elif what != UNEVALUATED:
            if verdict == VALID:
                counts = {**counts, i: counts.get(i, 0) + 1}
            # An item that `contains` finds is evaluated; one that it may find may be.
            if what == EVALUATED and (verdict == VALID or (verdict != INVALID and not ended)):
                found |= 1 << i
        elif verdict == INVALID:
            late.append(i)
    for i in late:
        if not found >> i & 1:
            unevaluated |= {(i, cover | found)}
    return failed, counts, unevaluated


class JsonState:
    """A text so far.

    frame    the innermost array or object that is open
    member   how the value being written, or to be written next, is judged
    text     the characters of the string or the name, where they matter; the bytes of a number or literal
    pending  bytes of a character or an escape that is not whole yet
    gap      white space since the last byte that is none, where there is a layout
    """

    __slots__ = ("capture", "frame", "gap", "layout", "length", "member", "mode", "pending", "text")

    frame: _Frame | None
    member: Member
    mode: int
    text: Any
    length: int
    pending: bytes
    capture: bool
    gap: bytes
    layout: bool

    @staticmethod
    def before(plan: Plan, layout: bool) -> JsonState:
        """No text yet. layout: only that of json.dumps(indent=2) is allowed; otherwise any white space between tokens."""
        state = JsonState.__new__(JsonState)
        state.frame = None
        state.member = Member(plan, (), 0)
        state.mode = _VALUE
        state.text, state.length, state.pending = "", 0, b""
        state.capture = plan.compares
        state.gap, state.layout = b"", layout
        return state

    def _copy(self) -> JsonState:
        other = JsonState.__new__(JsonState)
        other.frame = self.frame
        other.member = self.member
        other.mode = self.mode
        other.text = self.text
        other.length = self.length
        other.pending = self.pending
        other.capture = self.capture
        other.gap = self.gap
        other.layout = self.layout
        return other

    @property
    def is_complete(self) -> bool:
        if self.mode == _NUMBER and self.frame is None:
            return self._copy()._end_number()
        return self.mode == _END

    def read(self, data: bytes) -> JsonState | None:
        """The state after more bytes; None where no valid text goes on like that."""
        state = self._copy()
        return state if state._read(data) else None

    def _read(self, data: bytes) -> bool:
        at, end = 0, len(data)
        while at < end:
            mode = self.mode
            if mode in (_STRING, _KEY_STRING):
                at = self._characters(data, at)
                if at < 0:
                    return False
                continue
            byte = data[at]
            if mode == _NUMBER:
                found = _DIGITS.match(data, at)
                assert found is not None
                if found.end() > at:
                    at = found.end()
                    self.text += found[0]
                    if len(self.text) > LONGEST_NUMBER or not _BEGUN_NUMBER.fullmatch(self.text):
                        return False
                    if _overflows(self.text):
                        return False
                    if not self._number_stands():
                        return False
                elif not self._end_number():
                    return False
                continue
            if mode == _LITERAL:
                word, value = _LITERALS[self.text[0]]
                self.text += data[at : at + 1]
                if not word.startswith(self.text):
                    return False
                if len(self.text) == len(word) and not self._end_value(
                    self.member.plan.literal(value), None if value is None else ("boolean", value)
                ):
                    return False
                at += 1
                continue
            if byte in _SPACES:
                if mode == _END or self.frame is None or (self.layout and not self._space(data[at : at + 1])):
                    return False
            else:
                if self.layout and not self._laid_out(byte):
                    return False
                if not self._structure(mode, byte):
                    return False
            at += 1
        # What a string or a name may still become is judged once for all the bytes read.
        if self.mode == _STRING:
            plan = self.member.plan
            return not plan.watches_length or self._stands(plan.string(self.text, self.length, False))
        return self.mode != _KEY_STRING or self._name_may_come()

    def _structure(self, mode: int, byte: int) -> bool:
        """One byte between scalars that is no white space."""
        frame = self.frame
        if mode == _AFTER:
            assert frame is not None
            if byte == 0x2C:
                if frame.kind == OBJECT:
                    self.mode, self.text = _KEY, ""
                    return self._name_may_come()
                return self._next_item()
            return byte == (0x7D if frame.kind == OBJECT else 0x5D) and self._close()
        if mode == _COLON:
            self.mode = _VALUE
            return byte == 0x3A
        if mode == _KEY or (mode == _FIRST and frame is not None and frame.kind == OBJECT):
            if byte == 0x22:
                self.mode, self.text, self.pending = _KEY_STRING, "", b""
                return True
            return mode == _FIRST and byte == 0x7D and self._close()
        if mode == _END:
            return False
        if mode == _FIRST:
            if byte == 0x5D:
                return self._close()
            if not self._next_item():
                return False
        return self._begin(byte)

    def _begin(self, byte: int) -> bool:
        """The first byte of a value."""
        plan = self.member.plan
        if byte == 0x22:
            self.mode, self.text, self.length, self.pending = _STRING, "", 0, b""
            return self._stands(plan.string("", 0, False))
        if byte == 0x7B or byte == 0x5B:
            return self._open(OBJECT if byte == 0x7B else ARRAY)
        if byte == 0x2D or 0x30 <= byte <= 0x39:
            self.mode, self.text = _NUMBER, bytes((byte,))
            return self._stands(plan.number_begun) and self._number_stands()
        if byte in _LITERALS:
            self.mode, self.text = _LITERAL, bytes((byte,))
            return self._stands(plan.literal(_LITERALS[byte][1]))
        return False

    def _open(self, kind: int) -> bool:
        frame = _Frame.__new__(_Frame)
        above = self.frame
        frame.above, frame.member, frame.kind = above, self.member, kind
        frame.depth = 1 if above is None else above.depth + 1
        frame.capture = self.capture
        frame.count = frame.present = frame.failed = frame.rank = frame.passed = 0
        frame.counts, frame.unevaluated = _NO_COUNTS, _NONE_UNEVALUATED
        frame.keys, frame.values = json_sets.EMPTY, None
        frame.verdicts = frame.judged(0)
        if not self._stands(frame.verdicts):
            return False
        frame.above = self.frame
        self.frame, self.mode = frame, _FIRST
        return True

    def _next_item(self) -> bool:
        frame = self.frame
        assert frame is not None
        plan = frame.member.plan
        self._expect(plan.item(frame.count))
        return self._stands(self.member.plan.begun)

    def _expect(self, member: Member) -> None:
        frame = self.frame
        assert frame is not None
        self.mode, self.member = _VALUE, member
        self.capture = frame.capture or member.plan.compares or (frame.kind == ARRAY and frame.member.plan.unique != 0)

    def _stands(self, verdicts: Verdicts) -> bool:
        """Take the verdicts on the value being written to all that is around it; False where the whole is invalid."""
        frame = self.frame
        if frame is None:
            return not verdicts or verdicts[0] != INVALID
        if not frame.member.plan.nodes:
            return True
        return self._settle(frame, frame.judged(frame.count + 1, 0, self.member, verdicts))

    def _settle(self, frame: _Frame, verdicts: Verdicts) -> bool:
        """Put a frame with new verdicts in its place, and the frames around it as far as theirs change."""
        changed: list[_Frame] = []
        here: _Frame | None = frame
        while here is not None and verdicts != here.verdicts:
            copy = here.copy()
            copy.verdicts = verdicts
            changed.append(copy)
            above = here.above
            if above is not None:
                verdicts = above.judged(above.count + 1, 0, here.member, verdicts)
            elif verdicts[0] == INVALID:
                return False
            here = above
        for inner, outer in pairwise(changed):
            inner.above = outer
        self.frame = changed[0] if changed else frame
        return True

    def _name_may_come(self) -> bool:
        """Whether some name that begins like `text` may come here."""
        frame = self.frame
        assert frame is not None
        plan = frame.member.plan
        if not plan.nodes:
            return True
        refused = 0
        if plan.names:
            refused = plan.refused_names(self.text, lambda name: json_sets.contains(frame.keys, name))
        return self._settle(frame, frame.judged(frame.count + 1, refused))

    def _end_name(self) -> bool:
        frame, name = self.frame, self.text
        assert frame is not None
        if json_sets.contains(frame.keys, name):
            return False
        plan = frame.member.plan
        self.frame = frame = frame.copy()
        frame.keys = json_sets.add(frame.keys, name)
        member = plan.member(name)
        if plan.nodes:
            if plan.names:
                frame.failed |= plan.refused_name(name)
            frame.present |= plan.bits((name,))
            if (rank := plan.rank(name)) > frame.rank:
                frame.rank, frame.passed = rank, plan.passed(rank)
        if frame.capture:
            frame.values = (name, frame.values)
        self._expect(member)
        self.mode = _COLON
        return self._stands(member.plan.begun)

    def _number_stands(self) -> bool:
        """Whether some number that begins like this stands, where that can be told."""
        plan, frame = self.member.plan, self.frame
        if not plan.counts_digits or not self.text.lstrip(b"-").isdigit():
            return not plan.lists_numbers or self._stands(plan.listed_number_begun(self.text.decode()))
        for verdicts in plan.integer_begun(self.text.decode()):
            if self._stands(verdicts):
                self.frame = frame
                return True
        return False

    def _end_number(self) -> bool:
        if not _WHOLE_NUMBER.fullmatch(self.text) or not _has_double(self.text):
            return False
        plan = self.member.plan
        if not plan.nodes and not self.capture:
            return self._end_value((), None)
        number: Decimal | None = decimal_of(self.text.decode())
        if number is None:
            return False
        verdicts = plan.number(number)
        # What a reader makes of a number with a fraction or an exponent must be judged alike.
        if len(self.text) > EXACT_CHARACTERS and not self.text.lstrip(b"-").isdigit():
            read = decimal_of(repr(float(self.text)))
            if read is None or plan.number(read) != verdicts:
                return False
        return self._end_value(verdicts, number)

    def _end_value(self, verdicts: Verdicts, key: Any) -> bool:
        """A value has ended, with verdicts that are no longer open. key: its `value_key`, where `capture`."""
        frame = self.frame
        if frame is None:
            self.mode = _END
            return not verdicts or verdicts[0] == VALID
        plan, member = frame.member.plan, self.member
        self.mode = _AFTER
        self.frame = frame = frame.copy()
        frame.count += 1
        if member.links:
            frame.failed, frame.counts, frame.unevaluated = _told(
                member, verdicts, frame.failed, frame.counts, frame.unevaluated, True
            )
        if frame.kind == ARRAY and plan.unique:
            if json_sets.contains(frame.keys, key):
                frame.failed |= plan.unique
            else:
                frame.keys = json_sets.add(frame.keys, key)
        if frame.capture:
            if frame.kind == OBJECT:
                name, before = frame.values
                frame.values = ((name, key), before)
            else:
                frame.values = (key, frame.values)
        return not plan.nodes or self._settle(frame, frame.judged(frame.count))

    def _close(self) -> bool:
        frame = self.frame
        assert frame is not None
        plan, key = frame.member.plan, None
        if frame.capture:
            members = []
            values = frame.values
            while values is not None:
                one, values = values
                members.append(one)
            key = ("object", frozenset(members)) if frame.kind == OBJECT else ("array", tuple(reversed(members)))
        verdicts: Verdicts = ()
        if plan.nodes:
            verdicts = plan.container(
                frame.kind,
                frame.count,
                frame.count,
                True,
                frame.present,
                frame.passed,
                frame.failed,
                0,
                frame.counts,
                frame.unevaluated,
                key,
            )
        self.frame, self.member = frame.above, frame.member
        return self._end_value(verdicts, key)

    # Strings.

    def _characters(self, data: bytes, at: int) -> int:
        """Read characters of a string up to its end or the data's; the position after them, -1 where they are refused."""
        keeps = self.mode == _KEY_STRING or self.capture or self.member.plan.watches_text
        before = 0
        if self.pending:
            # What was begun, read again with what follows. Positions are then those in `data`, less what was there before.
            before = at - len(self.pending)
            data, at = self.pending + data[at:], 0
            self.pending = b""
        total = len(data)
        while at < total:
            found = _PLAIN.match(data, at)
            assert found is not None
            stop = found.end()
            if stop > at:
                piece = data[at:stop]
                try:
                    text = piece.decode()
                except UnicodeDecodeError as error:
                    if error.reason != "unexpected end of data" or stop < total:
                        return -1
                    text = piece[: error.start].decode()
                    self.pending = piece[error.start :]
                self.length += len(text)
                if keeps:
                    self.text += text
                at = stop
                continue
            byte = data[at]
            if byte == 0x22:
                if not (self._end_name() if self.mode == _KEY_STRING else self._end_string(keeps)):
                    return -1
                return before + at + 1
            if byte < 0x20:
                return -1
            char, width = _escape(data, at)
            if width < 0:
                return -1
            if width == 0:
                self.pending = data[at:]
                return before + total
            self.length += 1
            if keeps:
                self.text += char
            at += width
        return before + total

    def _end_string(self, keeps: bool) -> bool:
        plan = self.member.plan
        return self._end_value(plan.string(self.text, self.length, True), self.text if keeps else None)

    # White space.

    def _space(self, byte: bytes) -> bool:
        if not self.gap and not self._may_break():
            return False
        self.gap += byte
        return any(gap.startswith(self.gap) for gap in self._gaps(None))

    def _may_break(self) -> bool:
        """Whether a gap may begin: inside brackets just opened it promises a member, after one the closing bracket."""
        frame = self.frame
        if frame is None or self.mode not in (_FIRST, _AFTER):
            return True
        ahead = self._copy()
        if self.mode == _AFTER:
            return ahead._close()
        if frame.kind == ARRAY:
            return ahead._next_item()
        ahead.text = ""
        return ahead._name_may_come()

    def _laid_out(self, byte: int) -> bool:
        gap, self.gap = self.gap, b""
        return gap in self._gaps(byte)

    def _gaps(self, byte: int | None) -> tuple[bytes, ...]:
        """The white space that may come before a byte; before any where it is None."""
        frame, mode = self.frame, self.mode
        if frame is None:
            return (b"",)
        inside = b"\n" + b"  " * frame.depth
        if mode == _COLON:
            return (b"",)
        if mode == _KEY:
            return (inside,)
        if mode == _VALUE:
            return (b" ",) if frame.kind == OBJECT else (inside,)
        closes = byte in (0x7D, 0x5D)
        if mode == _FIRST:
            return (inside,) if byte is None or not closes else (b"",)
        assert mode == _AFTER
        return (inside[:-2],) if byte is None or closes else (b"",)


def _overflows(text: bytes) -> bool:
    """Whether a number begun is beyond a double already: more digits of its exponent only make it larger."""
    _, _, exponent = text.lower().partition(b"e")
    return exponent.lstrip(b"+").isdigit() and math.isinf(float(text))


def _has_double(text: bytes) -> bool:
    """Whether a number with a fraction or an exponent is within a double's range: readers would make it infinite, or zero."""
    if text.lstrip(b"-").isdigit():
        return True
    double = float(text)
    mantissa, _, _ = text.lower().partition(b"e")
    return not math.isinf(double) and (double != 0 or not mantissa.strip(b"-0."))


def _escape(data: bytes, at: int) -> tuple[str, int]:
    """The character that an escape stands for, and its bytes; 0 bytes where more must come, -1 where it is none."""
    left = len(data) - at
    if left < 2:
        return "", 0
    if data[at + 1] != 0x75:
        char = _ESCAPES.get(data[at + 1])
        return (char, 2) if char is not None else ("", -1)
    if not _HEX.issuperset(data[at + 2 : at + 6]):
        return "", -1
    if left < 6:
        # A low half begins \\ud[c-f]; alone it is no character.
        return "", -1 if data[at + 2 : at + 4].lower() in (b"dc", b"dd", b"de", b"df") else 0
    code = int(data[at + 2 : at + 6], 16)
    if not 0xD800 <= code <= 0xDFFF:
        return chr(code), 6
    if code >= 0xDC00:
        return "", -1
    low = data[at + 6 : at + 12]
    if not _LOW_HALF.fullmatch(low):
        return "", -1
    if len(low) < 6:
        return "", 0
    return chr(0x10000 + ((code - 0xD800) << 10) + int(low[2:], 16) - 0xDC00), 12


# The second half of a character beyond U+FFFF, or what it may begin like.
_LOW_HALF = re.compile(rb"(?:\\(?:u(?:[dD](?:[c-fC-F](?:[0-9a-fA-F]{0,2}))?)?)?)?")
