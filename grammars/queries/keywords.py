"""What each keyword of a query does to the place where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from grammars.queries.dialect import KEYWORDS, Function
from grammars.queries.schema import ANY, BOOL, NUMBER, TEXT, TIME
from grammars.queries.scope import (
    AFTER,
    CTE,
    NAME,
    NOTHING,
    OPERAND,
    TABLE,
    TYPE,
    WINDOW,
    Frame,
    Query,
    apart,
    is_alone,
    is_ambiguous,
    wants_one_table,
    with_query,
)

if TYPE_CHECKING:
    from grammars.queries.reader import Reader

CONSTANTS = {
    "null": ANY, "true": BOOL | NUMBER, "false": BOOL | NUMBER,
    "current_date": TIME | TEXT, "current_time": TIME | TEXT, "current_timestamp": TIME | TEXT,
}  # fmt: skip
# What an operand that begins with a word may be compared with.
KINDS_OF_WORDS = {**CONSTANTS, "exists": BOOL, "extract": NUMBER | TIME}


def columns_wanted(query: Query) -> int | None:
    return len(query.first) if query.first is not None else query.want


Handler = Callable[["Reader", Frame, str], Frame | None]


def _select(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if frame.kind == "query":
        return with_query(frame, clause="items").but(expect=OPERAND, left=-1, last="")
    return Frame(frame.up, "query", OPERAND, _subquery(frame, "items"))


def _values(reader: Reader, frame: Frame, word: str) -> Frame | None:
    """VALUES in brackets: rows follow, each in brackets of its own."""
    query = _subquery(frame, "values")
    compared = (0,) * (query.want or 0)
    if frame.kind == "list":
        assert frame.up is not None
        compared = frame.row or (frame.among,)
    opened = Frame(frame.up, "query", AFTER, query)
    return opened.but(last="values", row=compared)


def _with(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return with_query(frame, clause="with").but(expect=CTE)


def _subquery(frame: Frame, clause: str) -> Query:
    """The query that a bracket turns out to hold."""
    up = frame.up
    assert up is not None
    if frame.kind == "list":
        return Query("in", clause, want=len(frame.row) or 1)
    if frame.kind == "row":
        return Query("scalar", clause, want=len(frame.row))
    if up.expect == TABLE:
        return Query("derived", clause)
    if up.last == "cte as":
        return Query("cte", clause, cte_columns=up.query.cte_columns, want=len(up.query.cte_columns) or None)
    if up.last == "exists":
        return Query("exists", clause)
    return Query("scalar", clause, want=1)


def _stays(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return frame


def _distinct(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if frame.expect == OPERAND:
        return frame.but(distinct=True) if frame.kind == "call" else frame
    return frame.but(last="is distinct")


def _constant(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if frame.expect == AFTER:  # IS NULL, IS TRUE
        return frame.but(left=ANY, last="operand")
    return reader.operand(frame, CONSTANTS[word])


def _prefix(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return reader.no_item(frame.but(last=word)) if word == "not" and frame.expect == OPERAND else frame.but(last=word)


def _case(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return Frame(frame, "case", OPERAND, frame.query)


def _branch(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return frame.but(expect=OPERAND, left=-1, comparing=0, between=False, last="")


def _end(reader: Reader, frame: Frame, word: str) -> Frame | None:
    up = frame.up
    assert frame.kind == "case" and up is not None
    return reader.operand(up.but(holds=up.holds or frame.holds), ANY)


def _as(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if frame.kind == "cast":
        return frame.but(expect=TYPE)
    if frame.query.clause == "with":
        return frame.but(last="cte as")
    if frame.query.clause == "window":
        return frame.but(last="window as")
    return frame.but(expect=NAME)


def _and(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if frame.kind == "over":
        return frame
    if frame.between:
        return frame.but(between=False, expect=OPERAND, last="between")
    return reader.no_item(frame.but(expect=OPERAND, left=-1, comparing=0, last="and"))


def _or(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return reader.no_item(frame.but(expect=OPERAND, left=-1, comparing=0, last="or"))


def _not_after(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if frame.expect == OPERAND:
        return _prefix(reader, frame, word)
    return frame


def _in(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return reader.no_item(frame.but(last="in"))


def _is(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if reader.names.dialect.is_compares:
        frame = frame.but(expect=OPERAND, comparing=max(frame.left, 0))
    return reader.no_item(frame.but(last="is"))


def _like(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return reader.no_item(frame.but(expect=OPERAND, comparing=0, left=ANY, last=word))


def _escape(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return frame.but(expect=OPERAND, comparing=0, last=word)


def _collate(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return reader.no_item(frame.but(expect=TYPE, last=word))


def _between(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return reader.no_item(frame.but(expect=OPERAND, comparing=max(frame.left, 0), between=True, last="between"))


def _from(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if frame.kind == "extract":
        return frame.but(expect=OPERAND, last="")
    if frame.last == "is distinct":
        return frame.but(expect=OPERAND, comparing=max(frame.left, 0), last="compare")
    ended = reader.end_item(frame)
    wanted = columns_wanted(ended.query)
    outputs = ended.query.outputs
    if wanted is not None and (len(outputs) > wanted or (not any(o.star for o in outputs) and len(outputs) < wanted)):
        return None
    if not reader.fits_outside(ended):
        return None
    return with_query(ended, clause="from").but(expect=TABLE, left=-1, comparing=0, last="")


def _join_word(reader: Reader, frame: Frame, word: str) -> Frame | None:
    """LEFT, INNER, CROSS, NATURAL, JOIN: the source before it is settled, and after JOIN another comes."""
    settled = reader.joined(frame)
    if settled is None or wants_one_table(settled.query) or is_alone(frame.query):
        return None
    settled = with_query(settled, clause="on")
    if word in ("natural", "cross"):
        settled = with_query(settled, join=word)
    if word == "join":
        settled = with_query(settled, clause="from", join=settled.query.join or "plain")
    return settled.but(expect=TABLE if word == "join" else AFTER, left=-1, comparing=0, last="")


def _joined(reader: Reader, frame: Frame) -> Frame | None:
    """The newest source settled, where a condition may join it to others."""
    return reader.settled(frame) if frame.query.join == "plain" else None


def _on(reader: Reader, frame: Frame, word: str) -> Frame | None:
    settled = _joined(reader, frame)
    if settled is None:
        return None
    settled = apart(settled)
    if is_ambiguous(settled.query):
        return None
    return with_query(settled, clause="on").but(expect=OPERAND, left=-1, comparing=0, last="")


def _using_word(reader: Reader, frame: Frame, word: str) -> Frame | None:
    settled = _joined(reader, frame)
    if settled is None or (frame.last == "bracket" and not reader.names.dialect.lenient) or not reader.shared(settled):
        return None
    return with_query(settled, clause="on").but(expect=AFTER, last="using")


def _where(reader: Reader, frame: Frame, word: str) -> Frame | None:
    if frame.kind == "filter":
        return frame.but(expect=OPERAND)
    found = reader.end_from(frame)
    return found and found.but(expect=OPERAND, left=-1, comparing=0, last="")


def _group_word(reader: Reader, frame: Frame, word: str) -> Frame | None:
    """GROUP, ORDER, PARTITION: what follows BY is another list of expressions."""
    if frame.kind == "over":
        return (
            reader.part_of_window(frame.but(last=word, expect=AFTER), "ordered")
            if word == "order"
            else frame.but(last=word, expect=AFTER)
        )
    if frame.kind != "query":
        return frame
    found = reader.end_from(frame) if word == "group" else reader.end_core(frame)
    return found and with_query(found, clause=word).but(expect=AFTER, last=word)


def _by(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return frame.but(expect=OPERAND, left=-1, comparing=0, last="")


def _having(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return with_query(frame, clause="having").but(expect=OPERAND, left=-1, comparing=0, last="")


def _window(reader: Reader, frame: Frame, word: str) -> Frame | None:
    found = reader.end_from(frame)
    return found and with_query(found, clause="window").but(expect=WINDOW, left=-1, comparing=0, last="")


def _limit(reader: Reader, frame: Frame, word: str) -> Frame | None:
    ended = frame if frame.query.clause == "order" else reader.end_core(frame)
    return ended and with_query(ended, clause="limit").but(expect=NOTHING)


def _set_operation(reader: Reader, frame: Frame, word: str) -> Frame | None:
    ended = reader.end_core(frame)
    if ended is None:
        return None
    query = ended.query
    nothing: dict[str, int] = {}
    return with_query(
        ended, clause="begin", sources=(), merged=frozenset(), outputs=(), item=None, aliases=nothing, width=None,
        arms=query.arms + 1, groups=(), windows={}, foreseen={},
    ).but(expect=OPERAND, left=-1, comparing=0, last="")  # fmt: skip


def _over(reader: Reader, frame: Frame, word: str) -> Frame | None:
    """OVER and FILTER: after a call that takes them, where a window function makes sense."""
    takes = ("aggregate call", "window") if word == "over" else ("aggregate call", "distinct call")
    if frame.last not in takes:
        return None
    if word == "over" and not reader.may_call(frame, Function(0, 0, ANY, "window")):
        return None
    return frame.but(last=word, expect=WINDOW if word == "over" else AFTER)


def _frame_word(reader: Reader, frame: Frame, word: str) -> Frame | None:
    return reader.part_of_window(frame.but(expect=NOTHING), "framed") if frame.kind == "over" else frame


HANDLERS: dict[str, Handler] = {
    "select": _select, "values": _values, "window": _window,
    "with": _with, "distinct": _distinct, "all": _stays, "from": _from, "where": _where,
    "group": _group_word, "order": _group_word, "partition": _group_word, "by": _by, "having": _having, "limit": _limit,
    "offset": _stays, "recursive": _stays, "as": _as, "join": _join_word, "inner": _join_word, "left": _join_word,
    "right": _join_word, "full": _join_word, "outer": _join_word, "cross": _join_word, "natural": _join_word, "on": _on,
    "using": _using_word, "union": _set_operation, "intersect": _set_operation, "except": _set_operation, "and": _and,
    "or": _or, "not": _not_after, "in": _in, "is": _is, "null": _constant, "between": _between, "like": _like,
    "ilike": _like, "glob": _like, "exists": _prefix, "case": _case, "when": _branch, "then": _branch, "else": _branch,
    "end": _end, "cast": _prefix, "extract": _prefix, "interval": _stays, "asc": _stays, "desc": _stays, "nulls": _stays,
    "first": _stays, "last": _stays, "over": _over, "rows": _frame_word, "range": _frame_word, "filter": _over,
    "groups": _frame_word, "escape": _escape, "collate": _collate,
    "true": _constant, "false": _constant, "current_date": _constant, "current_time": _constant,
    "current_timestamp": _constant,
}  # fmt: skip
assert KEYWORDS - set(HANDLERS) == {"unbounded", "preceding", "following", "current", "row"}
