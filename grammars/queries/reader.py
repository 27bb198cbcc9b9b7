"""SQL read lexeme by lexeme: each is refused as soon as the scope decides that nothing can make it good.

The syntax is the mask's business (`syntax`): what is read here is always the beginning of something that the grammar
derives, so a keyword needs to be understood, not checked.
"""

from __future__ import annotations

import re

from grammars.queries.dialect import CLAUSE_WORDS, KEYWORDS, OPERAND_WORDS, Function
from grammars.queries.keywords import CONSTANTS, HANDLERS, KINDS_OF_WORDS, columns_wanted
from grammars.queries.lexer import NUMBER as NUMERAL
from grammars.queries.lexer import (
    QUOTED,
    STRING,
    SYMBOL,
    WORD,
    Lexeme,
    begun_lexeme,
    is_closed,
    split_lexemes,
    unquoted,
)
from grammars.queries.schema import ANY, BOOL, NUMBER, TEXT, TIME
from grammars.queries.scope import (
    AFTER,
    COLUMN,
    CTE,
    NAME,
    NOTHING,
    OPERAND,
    STORED,
    TABLE,
    TYPE,
    USING,
    WINDOW,
    Frame,
    Names,
    Output,
    Query,
    Relation,
    Source,
    Window,
    apart,
    candidates,
    closed_bracket,
    ctes_in_scope,
    hopes_for_names,
    innermost_query,
    is_alone,
    is_ambiguous,
    look_up,
    orders_result,
    qualifiers,
    refer,
    relation_named,
    relation_of,
    resolve_pending,
    wanted_of_list,
    wants_one_table,
    whole_length,
    with_columns,
    with_query,
)

_NUMERIC_BEGUN = re.compile(rb"[+-]?[0-9]*(\.[0-9]*)?")
_NUMERIC = re.compile(rb"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
_BEGINNINGS = OPERAND_WORDS | {"when"}
_JOINING = frozenset(["join", "inner", "left", "right", "full", "cross", "natural"])
_AFTER_ITEM = frozenset(["from", "order", "limit", "union", "intersect", "except"])
_AFTER_OPERAND = frozenset(
    ["as", "and", "or", "not", "is", "in", "between", "like", "ilike", "glob", "collate", "over", "filter"]
)
_AFTER_SOURCE = (_AFTER_ITEM - {"from"}) | _JOINING | {"as", "on", "using", "where", "group", "window"}
_AFTER_JOIN = _AFTER_SOURCE - {"as", "on", "using"}
_AFTER_BRACKET = _AFTER_SOURCE - {"as", "using"}
_AFTER_ROW = frozenset(["in", "not"])
_AFTER_ROW_LENIENT = _AFTER_ROW | {"between", "is"}
# The operators whose right side is a row, or a query of one, where the left side is.
_ROW_OPERATORS = frozenset(["compare", "between", "is", "not"])
_IN_WINDOW = frozenset(["partition", "order", "rows", "range", "groups"])
_AFTER_VALUES = frozenset(["union", "intersect", "except"])
_AFTER_WINDOW = _AFTER_ITEM - {"from"}
_BY = frozenset(["by"])
_AFTER_RESULT = frozenset(["asc", "desc", "nulls", "first", "last", "collate", "limit"])
_NESTED = frozenset(["partition", "rows", "range", "groups", "unbounded", "preceding", "following", "current", "row"])
_AFTER_ANYTHING = (KEYWORDS - OPERAND_WORDS - _NESTED - {"when", "then", "else", "end"}) | {
    "select", "not", "null", "true", "false", "distinct",
}  # fmt: skip
_AFTER_NESTED = frozenset(KEYWORDS)
# What `last` is where an operand has just been read.
_OPERANDS = frozenset(["operand", "aggregate call", "distinct call", "scalar", "either", "window", "type"])
# Whether these may come is for their handlers to say as well.
_JUDGED_NESTED = frozenset(["over", "filter"]) | (_IN_WINDOW - {"partition"})
_JUDGED = CLAUSE_WORDS | {"on", "over", "filter"}
_SOURCE_WORDS = frozenset([b"select", b"values"])
# Characters of an alias that a column is given without AS.
BARE_COLUMN_ALIAS = 4
_AFTER_TERM = frozenset([b",", b")", b";"])
_NO_AGGREGATES = ("where", "on", "group", "values")
_COMPARISONS = frozenset(["=", "==", "!=", "<>", "<", "<=", ">", ">="])
_ARITHMETIC = frozenset(["+", "-", "*", "/", "%", "||", "&", "|", "<<", ">>"])
_BITWISE = frozenset(["&", "|", "<<", ">>"])
# Characters by which PostgreSQL tells that a sign after them belongs to the operator.
_JOINING_SIGNS = frozenset("%&|~")


class Reader:
    """Reads queries over some names. It keeps nothing: a place in a text is a Frame and the bytes of a lexeme begun."""

    def __init__(self, names: Names, check_types: bool) -> None:
        self.names = names
        self.check_types = check_types
        self.start = Frame(None, "query", OPERAND, Query("top"))
        words = {"not", "exists", "case", "cast", *CONSTANTS} | (
            {"extract", "interval"} if names.dialect.casts else set()
        )
        self._operand_words = tuple(sorted(words))
        self._after_row = _AFTER_ROW_LENIENT if names.dialect.lenient else _AFTER_ROW
        self._after_bracket = _AFTER_BRACKET | {"as", "using"} if names.dialect.lenient else _AFTER_BRACKET
        self._query_words = ("select", "values") if names.dialect.values_column is not None else ("select",)

    def feed(self, frame: Frame, begun: bytes, data: bytes) -> tuple[Frame, bytes] | None:
        """The place after some more bytes; None where they cannot be the beginning of a query in scope."""
        lexemes, begun = split_lexemes(begun + data)
        for lexeme in lexemes:
            read = self._read(frame, lexeme)
            if read is None:
                return None
            frame = read
        if begun and not self._may_begin(frame, begin := begun_lexeme(begun), begin.text):
            return None
        return frame, begun

    def finish(self, frame: Frame, begun: bytes) -> bool:
        """Whether the text may end here, as far as names go."""
        at: Frame | None = frame
        if begun:
            lexeme = begun_lexeme(begun)
            if not is_closed(lexeme):
                return False
            at = self._read(frame, lexeme)
        if at is None or at.kind != "query" or at.up is not None:
            return False
        if at.query.clause == "end":
            return True
        return at.expect in (AFTER, NOTHING) and self._end_query(at) is not None

    # Lexemes

    def _read(self, frame: Frame, lexeme: Lexeme) -> Frame | None:
        kind, text, follower = lexeme
        if kind in (WORD, QUOTED) and _awaits_source(frame) and text.lower() not in _SOURCE_WORDS:
            bracket = self._bracket(frame)
            if bracket is None:
                return None
            frame = bracket
        if _takes_nothing(frame) and text != b")":
            return None
        if kind in (STRING, SYMBOL) and text not in _AFTER_TERM and _is_result_ordered(frame):
            return None
        if kind == WORD:
            return self._word(frame, self.names.key(text, False), follower)
        if kind == QUOTED:
            return self._quoted(frame, text, follower)
        if kind == STRING:
            return self.operand(frame, self._string_kinds(unquoted(text), closed=True))
        if kind == NUMERAL:
            return self._number(frame, text)
        if self.names.dialect.joins_operators and _is_one_operator(text, follower):
            return None
        return self._symbol(frame, text.decode())

    def _word(self, frame: Frame, low: str, follower: bytes) -> Frame | None:
        expect = frame.expect
        if expect == NOTHING:
            handler = HANDLERS.get(low) if frame.kind == "query" else None
            return handler(self, frame, low) if handler is not None else frame
        if expect == TYPE:
            return frame.but(expect=AFTER, last="operand" if frame.last == "collate" else "type")
        if expect == OPERAND:
            if follower == b"(" and low in self.names.functions:
                return self._call(frame, low)
            if low in _BEGINNINGS and follower != b".":
                return HANDLERS[low](self, frame, low) if self._may_be_word(frame, low, begun=False) else None
            return self._name(frame, low, follower, False)
        if expect == WINDOW and not (frame.kind == "over" and low in KEYWORDS):
            return self._window(frame, low)
        if expect in (AFTER, WINDOW) and low in KEYWORDS:
            if _is_result_ordered(frame) and frame.last != "order" and low not in _AFTER_RESULT:
                return None
            return HANDLERS[low](self, frame, low)
        if frame.last == "type" and low == "precision":
            return frame  # double precision
        if expect == AFTER and (frame.kind != "query" or not self._may_be_bare_alias(frame, low, begun=False)):
            return None
        if expect == CTE and low == "recursive" and not frame.query.recursive:
            return with_query(frame, recursive=True)
        return self._name(frame, low, follower, False)

    def _quoted(self, frame: Frame, text: bytes, follower: bytes) -> Frame | None:
        name = self.names.key(unquoted(text), True)
        if frame.expect == OPERAND and self._is_string(frame, text[:1], name, follower):
            return self.operand(frame, self._string_kinds(unquoted(text), closed=True))
        return self._name(frame, name, follower, True)

    def _is_string(self, frame: Frame, quote: bytes, name: str, follower: bytes) -> bool:
        """Whether a double-quoted text is a string: in SQLite one that names no column, where a value is compared with it."""
        if follower == b"." or not self._may_be_string(frame, quote):
            return False
        if '"' not in self.names.dialect.quotes:
            return True
        return all(known != name for known, _ in candidates(frame, self.names, None))

    def _may_be_string(self, frame: Frame, quote: bytes) -> bool:
        dialect = self.names.dialect
        if quote != b'"' or not dialect.double_quoted_strings:
            return False
        compared = frame.comparing or frame.kind == "list" or frame.last in ("like", "glob", "between", "compare")
        return bool(compared) or '"' not in dialect.quotes

    def _name(self, frame: Frame, name: str, follower: bytes, quoted: bool) -> Frame | None:
        expect = frame.expect
        if expect == OPERAND:
            if follower == b".":
                stands = self._may_qualify(frame, name, begun=False, quoted=quoted)
                return frame.but(qualifier=name) if stands or self._may_be_schema(frame, name, begun=False) else None
            return self._column(frame, None, name)
        if expect == COLUMN:
            if follower == b".":
                # What stands before the first dot is the schema.
                stands = frame.qualifier == self.names.namespace and self._may_qualify(
                    frame, name, begun=False, quoted=quoted, stored=True
                )
                return frame.but(qualifier=STORED + name) if stands else None
            return self._column(frame, frame.qualifier, name)
        if expect == WINDOW:
            return self._window(frame, name)
        if expect == TABLE:
            if follower == b"." and not frame.qualifier and self._may_be_namespace(frame, name, begun=False):
                return frame.but(qualifier=name)
            relation = self.names.tables.get(name) if frame.qualifier else relation_named(frame, self.names, name)
            if relation is None or not _may_join(frame.query, relation):
                return None
            return with_query(frame, sources=(*frame.query.sources, Source(name, relation)), bracket=1).but(
                expect=AFTER, last="source", qualifier=None
            )
        if expect == CTE:
            if name in self.names.tables or any(cte.name == name for cte in frame.query.ctes):
                return None
            return with_query(frame, cte_name=name, cte_columns=()).but(expect=AFTER, last="cte")
        if expect == USING:
            return self._using(frame, name)
        return self._alias(frame, name)

    def _alias(self, frame: Frame, name: str) -> Frame | None:
        query = frame.query
        if frame.kind == "names":
            return frame.but(listed=(*frame.listed, name), expect=AFTER) if self._may_list(frame, name) else None
        if query.clause == "items":
            kinds = query.item.kinds if query.item else ANY
            return with_query(frame, item=Output(name, kinds), aliases={**query.aliases, name: kinds}).but(
                expect=NOTHING, last="alias"
            )
        others, named = self._to_be_named(frame)
        called = Source(name, named)
        if self._is_taken(frame, name) or any(other.alias == name for other in others):
            return None
        if self._is_missed(query, called):
            return None
        if frame.last == "bracket":
            if any(output.star and output.name == name for output in query.outputs):
                return None
            before, within = query.sources[: -query.bracket], query.sources[-query.bracket :]
            # Nothing is known outside by the name of a bracket within this one.
            groups = (*query.groups, called) if before else (called,)
            changed = with_query(frame, sources=(*before, *closed_bracket(within)), groups=groups)
        else:
            changed = with_query(frame, sources=(*query.sources[:-1], called))
        return changed.but(expect=NOTHING, last="alias")

    def _to_be_named(self, frame: Frame) -> tuple[list[Source], Relation]:
        """What FROM has beside what an alias would name, and that: the newest source, or all those of a bracket just closed."""
        query = frame.query
        if frame.last != "bracket":
            *others, newest = (*query.outside, *query.groups, *query.sources)
            return others, newest.relation
        columns: dict[str, int] = {}
        for source in query.sources[-query.bracket :]:
            columns = {**source.relation.columns, **columns}
        return [*query.outside, *query.groups, *query.sources], Relation("", columns, len(columns))

    def _is_missed(self, query: Query, source: Source) -> bool:
        """Whether the select list named a column of this source that it does not have, nor gets from a list after its alias."""
        if not any(ref.is_missed_by(source) for ref in query.pending):
            return False
        relation, alias = source.relation, source.alias
        if not self.names.dialect.column_list or relation.name or not relation.outputs:
            return True
        if any(ref.qualifier == STORED + alias for ref in query.pending):
            return True
        return len(wanted_of_list(query, alias, ())) > len(relation.outputs)

    def _may_list(self, frame: Frame, name: str, begun: bool = False) -> bool:
        """Whether a list of columns may go on with this name: no column is called like another, and those named before fit."""
        assert frame.up is not None
        if frame.up.last == "cte":
            return begun or name not in frame.listed
        newest = frame.query.sources[-1]
        wanted = wanted_of_list(frame.query, newest.alias, frame.listed)
        left = len(newest.relation.outputs) - len(frame.listed)
        if len(wanted) == left:
            return any(known.startswith(name) if begun else known == name for known in wanted)
        return len(wanted) < left and (begun or name not in frame.listed)

    def _close_columns(self, frame: Frame, up: Frame) -> Frame | None:
        """The list of a sub-query's columns ends, and gives those that the select list named by its alias."""
        *others, newest = frame.query.sources
        whole = len(frame.listed) == len(newest.relation.outputs)
        if self.names.dialect.column_list == "all" and not whole:
            return None
        called = Source(newest.alias, with_columns(newest.relation, frame.listed))
        if any(ref.is_missed_by(called) for ref in frame.query.pending):
            return None
        return with_query(up, sources=(*others, called)).but(expect=NOTHING)

    def _column(self, frame: Frame, qualifier: str | None, name: str) -> Frame | None:
        found = refer(frame, self.names, qualifier, name)
        if found is None:
            return None
        kinds, frame = found
        return self.operand(frame, kinds, "" if name in self.names.nameless else name)

    def _window(self, frame: Frame, name: str) -> Frame | None:
        """The name of a window: one that WINDOW defines, or will."""
        query = frame.query
        if query.clause == "window" and frame.kind != "over":
            return None if name in query.windows else frame.but(expect=AFTER, last="window name", qualifier=name)
        if not self._may_be_window(frame, name, begun=False):
            return None
        if frame.kind == "over":
            # The window begins with another one, which has no frame.
            frame = self._foresee(frame, name, framed=True)
            return frame.but(window=Window(name), expect=AFTER, last="window base")
        return self._foresee(frame, name).but(expect=AFTER, last="operand")

    def _foresee(self, frame: Frame, name: str, ordered: bool = False, framed: bool = False) -> Frame:
        """WINDOW has to define what the select list uses, without the parts that it may not have."""
        query = frame.query
        if query.clause != "items":
            return frame
        known = query.foreseen.get(name, Window())
        may_not = Window("", known.ordered or ordered, known.framed or framed)
        return with_query(frame, foreseen={**query.foreseen, name: may_not})

    def part_of_window(self, frame: Frame, part: str) -> Frame | None:
        """Within the brackets of a window ORDER BY begins, or a frame."""
        query, window = frame.query, frame.window
        if getattr(self._asked_of_window(frame), part):
            return None
        if window.base and part == "ordered":
            if query.windows.get(window.base, Window()).ordered:
                return None
            frame = self._foresee(frame, window.base, ordered=True)
        return frame.but(window=Window(window.base, window.ordered or part == "ordered", part == "framed"))

    def _asked_of_window(self, frame: Frame) -> Window:
        """What the window that WINDOW defines here may not have, as OVER has used it before."""
        up = frame.up
        assert up is not None
        if up.last != "window as":
            return Window()
        assert up.qualifier is not None
        return frame.query.foreseen.get(up.qualifier, Window())

    def _close_window(self, frame: Frame, up: Frame) -> Frame:
        if up.last == "window as":
            query, name, window = frame.query, up.qualifier, frame.window
            assert name is not None
            ordered = window.ordered or query.windows.get(window.base, Window()).ordered
            foreseen = {other: asked for other, asked in query.foreseen.items() if other != name}
            up = with_query(up, windows={**query.windows, name: Window("", ordered, window.framed)}, foreseen=foreseen)
        return up.but(expect=AFTER, last="operand", qualifier=None)

    def _may_be_window(self, frame: Frame, name: str, begun: bool) -> bool:
        """Whether OVER may be followed by this name: any that FROM's WINDOW may define, after it those that it has."""
        query = frame.query
        if frame.kind != "over" and query.clause == "window":
            return True
        if query.clause == "items":
            return True
        if query.clause == "order" and not self.names.dialect.window_in_order:
            return False
        ordered = self._asked_of_window(frame).ordered if frame.kind == "over" else False
        return any(
            (known.startswith(name) if begun else known == name)
            and not (frame.kind == "over" and window.framed)
            and not (ordered and window.ordered)
            for known, window in query.windows.items()
        )

    def _using(self, frame: Frame, name: str) -> Frame | None:
        """A column that both sides of the join have."""
        assert frame.up is not None
        query = frame.query
        if name not in self.shared(frame.up):
            return None
        return with_query(frame, merged=query.merged | {name}).but(expect=AFTER)

    def shared(self, frame: Frame) -> set[str]:
        """The columns that what came last in FROM has in common with what came before it, where they are not ambiguous."""
        query = frame.query
        before, newest = (
            _only(query, sources) for sources in (query.sources[: -query.bracket], query.sources[-query.bracket :])
        )
        return {
            name
            for source in newest.sources
            for name in source.relation.columns
            if look_up(newest, None, name) > 0 and look_up(before, None, name) > 0
        }

    def _number(self, frame: Frame, text: bytes) -> Frame | None:
        if frame.expect == NOTHING:
            return frame
        if not self._may_count(frame, text, begun=False):
            return None
        return self.operand(frame, NUMBER)

    def _may_count(self, frame: Frame, text: bytes, begun: bool) -> bool:
        """Whether a number may stand here: one that begins a term of ORDER BY or GROUP BY counts the columns of the result.

        In SQLite it does so where it is whole and has 32 bits, and else is a value like any other.
        """
        query = frame.query
        if frame.kind == "query" and frame.left < 0 and query.clause in ("order", "group") and query.width is not None:
            if not self.names.dialect.lenient or _is_result_ordered(frame):
                return (
                    frame.last != "sign" and text.isdigit() and not text.startswith(b"0") and int(text) <= query.width
                )
            if text.isdigit() and not begun and int(text) < 1 << 31:
                return frame.last != "sign" and 1 <= int(text) <= query.width
        return self._fits(frame, NUMBER)

    def operand(self, frame: Frame, kinds: int, name: str = "") -> Frame | None:
        """An operand is whole."""
        if not self._fits(frame, kinds):
            return None
        if frame.last == "sign" and self.check_types:
            kinds &= NUMBER | TIME
        begins = frame.left < 0
        changed = frame.but(
            expect=AFTER, left=kinds if begins or frame.comparing else ANY, qualifier=None,
            comparing=frame.comparing if frame.between else 0, last="operand",
        )  # fmt: skip
        if frame.kind == "query" and frame.query.clause == "items":
            whole = begins and frame.last not in ("not", "and", "or")
            item = Output("" if frame.last == "sign" else name, kinds) if whole else Output("", ANY)
            changed = with_query(changed, item=item)
        return changed

    def _fits(self, frame: Frame, kinds: int) -> bool:
        if not self.check_types:
            return True
        if frame.last == "sign":
            kinds &= NUMBER | TIME
        return bool(kinds & (frame.comparing or ANY))

    def _string_kinds(self, text: bytes, closed: bool) -> int:
        pattern = _NUMERIC if closed else _NUMERIC_BEGUN
        return ANY if pattern.fullmatch(text.strip()) else TEXT | TIME | BOOL

    def _call(self, frame: Frame, name: str) -> Frame | None:
        function = self.names.functions[name]
        if not self._may_begin_call(frame, function):
            return None
        return frame.but(last="call", qualifier=name)

    def _may_begin_call(self, frame: Frame, function: Function) -> bool:
        return self._fits(frame, function.kinds) and self.may_call(frame, function)

    def may_call(self, frame: Frame, function: Function) -> bool:
        """Whether an aggregate or window function makes sense here: not in WHERE, not inside an aggregate."""
        at = innermost_query(frame)
        if at.query.clause in ("order", "limit") and at.query.arms > 1:
            return False
        if function.role in ("scalar", "either"):
            return True
        inside: Frame | None = frame
        while inside is not None and inside.kind != "query":
            called = inside.function.role if inside.function is not None else ""
            if inside.kind == "filter" or called == "aggregate":
                return False
            if function.role == "window" and (inside.kind == "over" or called in ("either", "window")):
                return False
            inside = inside.up
        if function.role == "window":
            return at.query.clause in ("items", "order")
        return at.query.clause not in _NO_AGGREGATES

    def _symbol(self, frame: Frame, symbol: str) -> Frame | None:
        if symbol == "(":
            return self._open(frame)
        if symbol == ")":
            return self._close(frame)
        if symbol == ",":
            return self._comma(frame)
        if symbol == ".":
            return frame if frame.expect == TABLE else frame.but(expect=COLUMN)
        if symbol in ("--", "/*"):
            return None
        if symbol == ";":
            ended = self._end_query(frame)
            return None if ended is None else with_query(ended, clause="end").but(expect=NOTHING)
        if symbol == "*" and frame.expect in (OPERAND, COLUMN):
            return self._star(frame)
        if symbol == "::":
            return frame.but(expect=TYPE, left=ANY)
        if frame.expect == OPERAND:
            return frame.but(last="sign")
        if symbol in _COMPARISONS:
            return self.no_item(frame.but(expect=OPERAND, comparing=max(frame.left, 0), last="compare"))
        assert symbol in _ARITHMETIC, symbol
        if symbol in _BITWISE:
            if not self._may_have_bits(frame):
                return None
            comparing = frame.comparing if frame.between else NUMBER
            return self.no_item(frame.but(expect=OPERAND, left=NUMBER, comparing=comparing, last=symbol))
        return self.no_item(
            frame.but(expect=OPERAND, left=ANY, comparing=0 if not frame.between else frame.comparing, last=symbol)
        )

    def _may_have_bits(self, frame: Frame) -> bool:
        return not self.check_types or bool(max(frame.left, 0) & NUMBER)

    def no_item(self, frame: Frame) -> Frame:
        """The column of the select list under way is an expression: it has no name of its own."""
        if frame.kind == "query" and frame.query.clause == "items":
            return with_query(frame, item=Output("", ANY))
        return frame

    def _star(self, frame: Frame) -> Frame | None:
        if frame.kind == "call":
            return frame.but(expect=AFTER, left=ANY)
        qualifier = frame.qualifier
        return with_query(frame, item=Output(qualifier or "", ANY, True)).but(
            expect=NOTHING, qualifier=None, last="star"
        )

    def _comma(self, frame: Frame) -> Frame | None:
        match frame.kind:
            case "paren":
                # More than one value in brackets: a row, to be compared with another.
                return frame.but(
                    kind="row", cells=(frame.left,), expect=OPERAND, left=-1, comparing=0, commas=1, last=""
                )
            case "row":
                cells = (*frame.cells, frame.left)
                if frame.row and len(cells) >= len(frame.row):
                    return None
                comparing = frame.row[len(cells)] if frame.row else 0
                return frame.but(
                    cells=cells, expect=OPERAND, left=-1, comparing=comparing, commas=frame.commas + 1, last=""
                )
            case "call":
                function, commas = frame.function, frame.commas + 1
                assert function is not None
                if (function.most is not None and commas >= function.most) or (
                    frame.distinct and self.names.dialect.name == "sqlite"
                ):
                    return None
                return frame.but(commas=commas, expect=OPERAND, left=-1, comparing=0)
            case "list":
                return frame.but(expect=OPERAND, left=-1, comparing=frame.among, last="")
            case "names":
                return frame.but(expect=NAME) if self._may_list(frame, "", begun=True) else None
            case "using":
                return frame.but(expect=USING)
            case "type":
                return frame
            case "over":
                return frame.but(expect=OPERAND, left=-1)
        match frame.query.clause:
            case "items":
                ended = self.end_item(frame)
                limit = columns_wanted(frame.query)
                if limit is not None and _least_width(ended.query) >= limit:
                    return None
                return ended.but(expect=OPERAND, left=-1, comparing=0, last="")
            case "from" | "on":
                settled = self.joined(frame)
                if settled is None or wants_one_table(settled.query) or is_alone(frame.query):
                    return None
                return with_query(settled, clause="from").but(expect=TABLE, left=-1, comparing=0)
            case "with":
                return frame.but(expect=CTE)
            case "limit":
                return frame  # LIMIT offset, count
            case "values":
                return frame.but(last="values")
            case "window":
                return frame.but(expect=WINDOW, last="")
        return frame.but(expect=OPERAND, left=-1, comparing=0, last="")

    # Brackets

    def _open(self, frame: Frame) -> Frame | None:
        query, last = frame.query, frame.last
        if frame.expect == OPERAND:
            if last == "call":
                assert frame.qualifier is not None
                return Frame(frame, "call", OPERAND, query, self.names.functions[frame.qualifier])
            if last in ("cast", "extract"):
                return Frame(frame, last, TYPE if last == "extract" else OPERAND, query)
            if frame.row:
                # What a row is compared with is a row, or several.
                return Frame(frame, "row", OPERAND, query, comparing=frame.row[0]).but(row=frame.row)
            if _awaits_source(frame):
                bracket = self._bracket(frame)
                return bracket and Frame(bracket, "paren", OPERAND, bracket.query)
            # A lone bracketed value is compared like one without brackets.
            return Frame(frame, "paren", OPERAND, query, comparing=frame.comparing)
        if frame.expect == TABLE:
            return Frame(frame, "paren", OPERAND, query)
        match last:
            case "in":
                return Frame(frame, "list", OPERAND, query, comparing=max(frame.left, 0)).but(row=frame.row)
            case "values":
                return Frame(frame, "row", OPERAND, query, comparing=max(frame.row[:1], default=0)).but(row=frame.row)
            case "over" | "window as":
                return Frame(frame, "over", WINDOW, query)
            case "filter":
                return Frame(frame, "filter", AFTER, query)
            case "using":
                return Frame(frame, "using", USING, query)
            case "cte" | "alias":
                return Frame(frame, "names", NAME, query)
            case "cte as":
                return Frame(frame, "paren", OPERAND, query)
        return Frame(frame, "type", NOTHING, query)

    def _bracket(self, frame: Frame) -> Frame | None:
        """Joins in brackets, where a bracket after FROM holds no query. ON sees what is within."""
        up = frame.up
        assert up is not None
        query = up.query
        if query.join == "natural" and not self.names.dialect.lenient:
            return None
        outside = (*query.outside, *query.called)
        inside = Query("joins", "from", join=query.join, pending=query.pending, outside=outside)
        return Frame(up, "query", TABLE, inside)

    def _close_row(self, frame: Frame, up: Frame) -> Frame | None:
        cells = (*frame.cells, frame.left)
        if frame.row and len(cells) != len(frame.row):
            return None
        if up.query.clause == "values" and up.kind == "query":
            known = up.query.outputs or (Output("", 0),) * len(cells)
            assert self.names.dialect.values_column is not None
            word, first = self.names.dialect.values_column
            outputs = tuple(
                Output(f"{word}{first + k}", output.kinds | kinds)
                for k, (output, kinds) in enumerate(zip(known, cells, strict=True))
            )
            return with_query(up, outputs=outputs).but(last="row of values", row=up.row or (0,) * len(cells))
        holds = up.holds or frame.holds
        if not frame.row:
            return self.no_item(up.but(expect=AFTER, left=ANY, holds=holds, comparing=0, row=cells, last="row"))
        if up.kind == "list":
            return up.but(expect=AFTER, left=ANY, holds=holds, last="operand")
        return up.but(expect=AFTER, left=ANY, holds=holds, row=up.row if up.between else (), last="operand")

    def _close(self, frame: Frame) -> Frame | None:
        up = frame.up
        if up is None:
            return None
        match frame.kind:
            case "query":
                return self._close_query(frame)
            case "call":
                return self._close_call(frame, up)
            case "row":
                return self._close_row(frame, up)
            case "names" if up.last == "cte":
                return with_query(up, cte_columns=frame.listed).but(expect=AFTER)
            case "names":
                return self._close_columns(frame, up)
            case "filter":
                return up.but(expect=AFTER, last="aggregate call")
            case "using":
                return up.but(expect=AFTER, last="joined")
            case "over":
                return self._close_window(frame, up)
            case "type":
                return up.but(expect=AFTER, last="operand")
        holds = up.holds or frame.holds
        match frame.kind:
            case "paren":
                return self.operand(
                    up.but(holds=holds), frame.left if frame.left >= 0 and frame.last == "operand" else ANY
                )
            case "list":
                return up.but(expect=AFTER, left=ANY, holds=holds, row=(), last="operand")
        return self.operand(up.but(holds=holds), NUMBER | TIME if frame.kind == "extract" else ANY)

    def _close_call(self, frame: Frame, up: Frame) -> Frame | None:
        function = frame.function
        assert function is not None
        given = frame.commas + 1 if frame.left >= 0 or frame.expect == AFTER else 0
        if given < function.least:
            return None
        aggregate = function.role == "aggregate" or (function.role == "either" and frame.commas == 0)
        if aggregate and frame.holds:
            return None
        if function.role == "either" and aggregate:
            one = Function(1, 1, function.kinds, "aggregate")
            if not self.may_call(up, one):
                return None
        kinds = frame.left if function.role == "either" and frame.left > 0 and frame.commas == 0 else function.kinds
        closed = self.operand(up.but(holds=up.holds or frame.holds or aggregate), kinds)
        if closed is None:
            return None
        how = "distinct call" if frame.distinct else "aggregate call" if aggregate else function.role
        return closed.but(last=how)

    def _close_query(self, frame: Frame) -> Frame | None:
        ended = self._end_query(frame)
        if ended is None:
            return None
        query, up = ended.query, ended.up
        assert up is not None
        up = up.but(row=()) if query.role in ("in", "scalar") and not up.between else up
        match query.role:
            case "joins":
                return self._close_joins(query, up)
            case "derived":
                source = Source("", relation_of(query, ""))
                return with_query(up, sources=(*up.query.sources, source), bracket=1).but(expect=AFTER, last="source")
            case "cte":
                if up.query.cte_columns and len(up.query.cte_columns) != _width(query):
                    return None
                relation = relation_of(query, up.query.cte_name)
                return with_query(up, ctes=(*up.query.ctes, relation)).but(expect=AFTER, last="")
            case "exists":
                return self.operand(up, BOOL)
        if not self.fits_outside(ended):
            return None
        if query.role == "in":
            return up.but(expect=AFTER, left=ANY, last="operand")
        return self.operand(up, _first_kinds(query))

    def _close_joins(self, query: Query, up: Frame) -> Frame:
        """The sources of a bracket beside those before it; a single one in brackets is like one without."""
        sources, groups = query.sources, query.groups
        if up.query.sources and self.names.dialect.lenient:
            sources, groups = closed_bracket(sources), ()
        joined = with_query(
            up, sources=(*up.query.sources, *sources), groups=(*up.query.groups, *groups), bracket=len(sources),
            merged=up.query.merged | query.merged, pending=query.pending,
        )  # fmt: skip
        return joined.but(expect=AFTER, last="source" if len(sources) == 1 else "bracket", qualifier=None)

    def fits_outside(self, frame: Frame) -> bool:
        """Whether the first column of a sub-query that is compared is of a kind to be compared with."""
        up, query = frame.up, frame.query
        if query.role not in ("in", "scalar"):
            return True
        assert up is not None
        compared = up.but(comparing=max(up.left, 0)) if query.role == "in" else up
        return self._fits(compared, _first_kinds(query))

    # The parts of a query

    def end_item(self, frame: Frame) -> Frame:
        query = frame.query
        item = query.item if query.item is not None else Output("", ANY)
        return with_query(frame, outputs=(*query.outputs, item), item=None)

    def settled(self, frame: Frame) -> Frame | None:
        """The newest source has its alias: nothing else is called so, and it has what the select list names by it."""
        query = frame.query
        if query.clause != "from":
            return frame
        *others, newest = (*query.outside, *query.groups, *query.sources)
        alias = newest.alias
        if alias and any(other.alias == alias for other in others):
            return None
        if not alias and self.names.dialect.derived_alias_required:
            return None
        if any(ref.is_missed_by(newest) for ref in query.pending):
            return None
        if query.join == "natural":
            if not _may_join(_only(query, query.sources[:-1]), newest.relation):
                return None
            frame = with_query(frame, merged=query.merged | self.shared(frame))
        return with_query(frame, join="")

    def joined(self, frame: Frame) -> Frame | None:
        """The same once no condition can join the newest source any more: what the select list names is not ambiguous."""
        settled = self.settled(frame)
        if settled is None:
            return None
        if frame.query.clause == "from" and frame.query.join != "natural":
            settled = apart(settled)
        return None if is_ambiguous(settled.query) else settled

    def end_from(self, frame: Frame) -> Frame | None:
        """FROM is whole, or there was none: everything named in the select list is found."""
        query = frame.query
        if query.clause == "items":
            frame = self.end_item(frame)
            if query.first is None and not self.fits_outside(frame):
                return None
        elif query.clause in ("from", "on"):
            settled = self.joined(frame)
            if settled is None:
                return None
            frame = settled
        else:
            return frame
        found = resolve_pending(with_query(frame, clause="where"), self.names)
        if found is None:
            return None
        wanted = columns_wanted(found.query)
        return found if wanted is None or found.query.width == wanted else None

    def end_core(self, frame: Frame) -> Frame | None:
        found = self.end_from(frame)
        if found is None or found.query.foreseen:
            return None
        if found.query.first is not None:
            return found
        return with_query(found, first=found.query.outputs)

    def _end_query(self, frame: Frame) -> Frame | None:
        if frame.kind != "query" or frame.query.clause in ("begin", "with"):
            return None
        if frame.query.role == "joins":
            # USING may still come after a single one, and make one column of two.
            return self.settled(frame) if len(frame.query.sources) == 1 else self.joined(frame)
        return frame if frame.query.clause in ("order", "limit", "end") else self.end_core(frame)

    # Lexemes that have only begun

    def _may_begin(self, frame: Frame, lexeme: Lexeme, text: bytes) -> bool:
        """Whether some lexeme that begins like this would be read. Never stricter than reading the whole one."""
        if lexeme.kind in (WORD, QUOTED) and _awaits_source(frame):
            if lexeme.kind == WORD and self._may_be_word(frame, self.names.key(text, False), begun=True):
                return True
            bracket = self._bracket(frame)
            return bracket is not None and self._may_begin(bracket, lexeme, text)
        expect = frame.expect
        if _takes_nothing(frame):
            return False
        if lexeme.kind == SYMBOL and text in (b"&", b"<<", b">>") and not self._may_have_bits(frame):
            return False
        if lexeme.kind in (STRING, SYMBOL) and _is_result_ordered(frame):
            return False
        if lexeme.kind == WORD:
            word = self.names.key(text, False)
            if expect == WINDOW:
                if frame.kind == "over" and self._may_go_on(frame, word, _IN_WINDOW):
                    return True
                return self._may_be_window(frame, word, begun=True)
            if expect in (OPERAND, COLUMN, TABLE, USING):
                return self._may_be_named(frame, word, quoted=False)
            if frame.kind == "names" and expect == NAME:
                return self._may_list(frame, word, begun=True)
            if frame.kind != "query":
                return expect != AFTER or frame.last == "type" or self._may_go_on(frame, word, _AFTER_NESTED)
            if expect in (AFTER, NOTHING) and not self._may_end_part(frame, word):
                return False
            if expect in (AFTER, NAME) and frame.query.clause == "from":
                return not self._is_taken(frame, word)
        elif lexeme.kind == QUOTED:
            if is_closed(lexeme):
                if any(self._quoted(frame, text, follower) is not None for follower in (b" ", b".")):
                    return True
                if text.startswith(b"["):
                    return False
                # The quote may yet turn out to be the first half of a doubled one.
                begun = begun_lexeme(text + text[:1])
                return expect in (OPERAND, COLUMN, TABLE, USING) and self._may_begin(frame, begun, begun.text)
            if expect == WINDOW:
                return self._may_be_window(frame, self.names.key(unquoted(text), True), begun=True)
            if frame.kind == "names" and expect == NAME:
                return self._may_list(frame, self.names.key(unquoted(text), True), begun=True)
            if expect in (OPERAND, COLUMN, TABLE, USING):
                if expect == OPERAND and self._may_be_string(frame, text[:1]):
                    kinds = self._string_kinds(unquoted(text), closed=False)
                    if self._fits(frame, kinds):
                        return True
                return self._may_be_named(
                    frame, self.names.key(unquoted(text), True), quoted=True, bracketed=text.startswith(b"[")
                )
        elif lexeme.kind == NUMERAL:
            return expect == NOTHING or self._may_count(frame, text, begun=True)
        elif lexeme.kind == STRING:
            return self._fits(frame, self._string_kinds(unquoted(text), closed=is_closed(lexeme)))
        return True

    def _may_end_part(self, frame: Frame, word: str) -> bool:
        """Whether a word begun after an operand or alias may become one that may come there."""
        if frame.expect == AFTER and self._may_be_bare_alias(frame, word, begun=True):
            return True
        return self._may_go_on(frame, word, self._words_after(frame))

    def _may_go_on(self, frame: Frame, word: str, keywords: frozenset[str]) -> bool:
        """Whether a word begun may become one of these keywords, where their handlers take it."""
        judged = _JUDGED if frame.kind == "query" else _JUDGED_NESTED
        return any(
            keyword not in judged or HANDLERS[keyword](self, frame, keyword) is not None
            for keyword in keywords
            if keyword.startswith(word)
        )

    def _words_after(self, frame: Frame) -> frozenset[str]:
        """The keywords that may stand here, after an operand, a table or an alias. No alias begins like another one."""
        clause, last = frame.query.clause, frame.last
        if last in ("group", "order"):
            return _BY
        if _is_result_ordered(frame):
            return _AFTER_RESULT
        if last == "joined":
            return _AFTER_JOIN
        if frame.query.role == "joins" and clause == "from":
            return (_JOINING | {"as", "on", "using"}) & (self._after_bracket if last == "bracket" else _AFTER_SOURCE)
        if last == "bracket":
            return self._after_bracket
        if last == "row":
            return self._after_row
        if clause == "values":
            return _AFTER_VALUES
        if clause == "window" and last == "operand":
            return _AFTER_WINDOW
        if clause == "items" and frame.expect == NOTHING:
            return _AFTER_ITEM
        if clause == "items" and last in _OPERANDS:
            return _AFTER_ITEM | _AFTER_OPERAND
        if clause == "from" and (frame.expect == NOTHING or last == "source"):
            return _AFTER_SOURCE
        return _AFTER_ANYTHING

    def _may_be_bare_alias(self, frame: Frame, word: str, begun: bool) -> bool:
        """Whether a word may be an alias without AS. It is none that begins like what may come in its place."""
        query = frame.query
        if (
            query.clause not in ("items", "from")
            or frame.last == "alias"
            or (frame.last == "bracket" and not self.names.dialect.lenient)
            or any(map(word.startswith, CLAUSE_WORDS))
        ):
            return False
        if query.clause == "items":
            longest = max(BARE_COLUMN_ALIAS, self.names.forward_alias)
            return len(word) < longest or (len(word) == longest and word not in self.names.reserved)
        used = {ref.qualifier.removeprefix(STORED) for ref in query.pending if ref.qualifier is not None}
        if any(alias.startswith(word) if begun else alias == word for alias in used):
            return True
        named = query.sources[-query.bracket :]
        return self.names.may_be_alias(word, [source.relation.name for source in named], begun)

    def _is_taken(self, frame: Frame, alias: str) -> bool:
        """Whether an alias, or a beginning of it that ends in a digit, cannot be the newest source's: T1 is not made T12 of."""
        others, named = self._to_be_named(frame)
        for end in range(2, len(alias) + 1):
            begun = alias[:end]
            if begun[-1].isdigit() and (
                any(other.alias == begun for other in others) or self._is_missed(frame.query, Source(begun, named))
            ):
                return True
        return False

    def _words_here(self, frame: Frame) -> tuple[str, ...]:
        """The keywords that may stand where an operand is expected."""
        begins = frame.left < 0 and not frame.last
        if _is_result_ordered(frame):
            return ()
        match frame.kind:
            case "paren" if begins and frame.up is not None and frame.up.expect != OPERAND:
                return self._query_words
            case "list" if begins and frame.commas == 0:
                return (*self._query_words, *self._operand_words)
            case "paren" if begins:
                return ("select", *self._operand_words)
            case "row" if (
                begins and not frame.cells and frame.row and frame.up is not None and frame.up.last in _ROW_OPERATORS
            ):
                return ("select", *self._operand_words)
            case "call" if begins and frame.commas == 0 and not frame.distinct:
                assert frame.function is not None
                if frame.function.role in ("aggregate", "either"):
                    return ("distinct", *self._operand_words)
            case "case" if begins:
                return ("when", *self._operand_words)
            case "query" if frame.query.clause == "begin":
                return ("select", "all") if frame.query.arms > 1 else ("select", "with")
            case "query" if begins and frame.query.clause == "items" and not frame.query.outputs:
                return ("distinct", "all", *self._operand_words)
        return self._operand_words

    def _may_be_word(self, frame: Frame, word: str, begun: bool) -> bool:
        return any(
            (known.startswith(word) if begun else known == word)
            and self._fits(frame, KINDS_OF_WORDS.get(known, ANY))
            and (known != "not" or (frame.left < 0 and frame.last != "sign") or frame.last == "is")
            for known in self._words_here(frame)
        )

    def _may_be_namespace(self, frame: Frame, name: str, begun: bool) -> bool:
        """Whether a table may be named with the schema it is in."""
        whole = self.names.namespace
        if not whole or (not whole.startswith(name) if begun else whole != name):
            return False
        return any(_may_join(frame.query, relation) for relation in self.names.tables.values())

    def _may_be_schema(self, frame: Frame, name: str, begun: bool) -> bool:
        """Whether a column may be named with its table and the schema that is in."""
        whole = self.names.namespace
        if not whole or (not whole.startswith(name) if begun else whole != name):
            return False
        return hopes_for_names(frame) or any(True for _ in qualifiers(frame, self.names, stored=True))

    def _may_be_named(self, frame: Frame, key: str, quoted: bool, bracketed: bool = False) -> bool:
        names, expect = self.names, frame.expect

        def written_as(name: str) -> bool:
            if bracketed and "]" in name:
                return False
            return name.startswith(key) and (quoted or names.is_unquoted(name))

        if expect == TABLE:
            relations = [*names.tables.values()]
            if not frame.qualifier:
                if self._may_be_namespace(frame, key, begun=True) and (quoted or names.is_unquoted(names.namespace)):
                    return True
                relations += ctes_in_scope(frame)
            return any(written_as(one.name) and _may_join(frame.query, one) for one in relations)
        if expect == USING:
            assert frame.up is not None
            return any(map(written_as, self.shared(frame.up)))
        if expect == COLUMN:
            if any(
                written_as(name) and self._fits(frame, kinds)
                for name, kinds in candidates(frame, names, frame.qualifier)
            ):
                return True
            assert frame.qualifier is not None
            if frame.qualifier == names.namespace and self._may_qualify(
                frame, key, begun=True, quoted=quoted, stored=True
            ):
                return True
            own = frame.qualifier.removeprefix(STORED) in names.tables
            return not own and whole_length(key) <= names.forward_column and hopes_for_names(frame)
        if not quoted:
            if self._may_be_word(frame, key, begun=True):
                return True
            if any(
                name.startswith(key) and self._may_begin_call(frame, function)
                for name, function in names.functions.items()
            ):
                return True
        if any(written_as(name) and self._fits(frame, kinds) for name, kinds in candidates(frame, names, None)):
            return True
        if hopes_for_names(frame) and whole_length(key) <= names.forward_column:
            return True
        if self._may_be_schema(frame, key, begun=True) and (quoted or names.is_unquoted(names.namespace)):
            return True
        return self._may_qualify(frame, key, begun=True, quoted=quoted)

    def _may_qualify(self, frame: Frame, name: str, begun: bool, quoted: bool, stored: bool = False) -> bool:
        """Whether a name may stand before a dot; stored: after the schema's, so that it has to be of a table or view."""
        known = qualifiers(frame, self.names, stored)
        if any(
            one.startswith(name) and (quoted or self.names.is_unquoted(one)) if begun else one == name for one in known
        ):
            return True
        if not hopes_for_names(frame):
            return False
        relations = [*self.names.tables]
        if not stored:
            relations += (relation.name for relation in ctes_in_scope(frame))
        return self.names.may_be_alias(name, relations, begun)


def _may_join(query: Query, relation: Relation) -> bool:
    """Whether a relation may come next in FROM: a NATURAL JOIN must not find one of its columns twice.

    Nor must a column that was named without its table, where no USING can make one of both.
    """
    if query.join == "natural":
        return all(look_up(query, None, name) for name in relation.columns)
    if query.join == "plain":
        return True
    before = (*query.outside, *query.sources)
    return not any(
        ref.qualifier is None
        and ref.name in relation.columns
        and any(ref.name in one.relation.columns for one in before)
        for ref in query.pending
    )


def _awaits_source(frame: Frame) -> bool:
    """Whether a bracket after FROM has just been opened: a query, VALUES or joins may follow."""
    return frame.kind == "paren" and frame.up is not None and frame.up.expect == TABLE and frame.expect == OPERAND


def _is_one_operator(text: bytes, follower: bytes) -> bool:
    """Whether an operator and the sign right after it are read as one by PostgreSQL, as %- in 1 %-2."""
    if text in (b"(", b")", b",", b";", b".", b"::") or follower not in (b"+", b"-", b"~"):
        return False
    return follower == b"~" or not _JOINING_SIGNS.isdisjoint(text.decode())


def _is_result_ordered(frame: Frame) -> bool:
    """Whether this is ORDER BY after several SELECTs, whose terms are names and numbers of columns and nothing else."""
    return frame.kind == "query" and frame.query.clause == "order" and orders_result(frame.query)


def _takes_nothing(frame: Frame) -> bool:
    """Whether only the closing bracket may follow, as after row_number(."""
    return frame.function is not None and frame.function.most == 0


def _only(query: Query, sources: tuple[Source, ...]) -> Query:
    from dataclasses import replace

    return replace(query, sources=sources)


def _width(query: Query) -> int:
    return len(query.first if query.first is not None else query.outputs)


def _first_kinds(query: Query) -> int:
    outputs = query.first if query.first is not None else query.outputs
    return outputs[0].kinds if len(outputs) == 1 else ANY


def _least_width(query: Query) -> int:
    """Columns that the select list has at least: a star is one or more."""
    return len(query.outputs)
