"""Where in a query we are, and what a name can mean there: nested frames, each a value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from grammars.queries.dialect import NOT_ALIASES, Dialect, Function
from grammars.queries.schema import ANY, NUMBER, Schema
from grammars.queries.syntax import ROWIDS, usable_unquoted

# Before a qualifier that was written with its schema, main.singer: only a table or view itself is meant. No name begins so.
STORED = "\0"
# What a frame waits for.
OPERAND, AFTER, TABLE, NAME, COLUMN, TYPE, CTE, USING, WINDOW, NOTHING = range(10)


class Relation(NamedTuple):
    """Something with named columns: a table, a view, a CTE, a sub-query.

    width   counts the unnamed columns too
    rowids  what names its rows' key beside the columns: no star and no join by name takes it for one
    stored  whether it is a table or view of the database's
    outputs of a sub-query: its columns in their order
    """

    name: str
    columns: Mapping[str, int]  # key -> kinds
    width: int
    rowids: tuple[str, ...] = ()
    stored: bool = False
    outputs: tuple[Output, ...] = ()

    def kinds(self, name: str) -> int:
        """The kinds of what a name means here, 0 where it means nothing."""
        return self.columns.get(name) or (NUMBER if name in self.rowids else 0)

    def named(self) -> Iterator[tuple[str, int]]:
        yield from self.columns.items()
        yield from ((name, NUMBER) for name in self.rowids)


class Source(NamedTuple):
    """A relation in FROM, under the name it has there; "" for a sub-query without one."""

    alias: str
    relation: Relation

    def is_called(self, qualifier: str) -> bool:
        if qualifier.startswith(STORED):
            return self.relation.stored and qualifier[1:] == self.alias
        return qualifier == self.alias


class Reference(NamedTuple):
    """A column that was named before FROM said what there is."""

    qualifier: str | None
    name: str

    def means(self, alias: str) -> bool:
        """Whether it is a column of what FROM calls so."""
        return self.qualifier is not None and self.qualifier.removeprefix(STORED) == alias

    def is_missed_by(self, source: Source) -> bool:
        """Whether it is a column of what FROM calls like this source, and that has none of its name."""
        if self.qualifier is None or not self.means(source.alias):
            return False
        return not source.is_called(self.qualifier) or not source.relation.kinds(self.name)


class Window(NamedTuple):
    """A window: the name of the one that it begins with, whether it is ordered, whether it has a frame."""

    base: str = ""
    ordered: bool = False
    framed: bool = False


class Output(NamedTuple):
    """A column of the select list, "" where it has no name; a star has `star` True and its qualifier, if any, as name."""

    name: str
    kinds: int
    star: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """One SELECT with the set operations after it; or VALUES; or joins in brackets, which have a scope of their own.

    role     top, cte, derived, scalar, in, exists, joins
    clause   begin, with, items, from, on, where, group, having, window, order, limit, end; values
    pending  references of the select list that FROM has to resolve
    first    the columns of the first of several SELECTs; width: how many this one has, once that is known
    want     how many columns there have to be
    join     how the newest source was joined: natural, cross, plain (a condition may follow), "" for none or a comma
    outside  of joins in brackets: what a qualifier can mean that stands before the bracket
    groups   the joins in brackets that have a name of their own: it stands for the columns of all their sources
    bracket  how many of the sources came last: those of a bracket, or one
    windows  what WINDOW has defined; foreseen: what it still has to, since OVER used it, and which parts that may not have
    """

    role: str
    clause: str = "begin"
    ctes: tuple[Relation, ...] = ()
    sources: tuple[Source, ...] = ()
    merged: frozenset[str] = frozenset()
    pending: tuple[Reference, ...] = ()
    outputs: tuple[Output, ...] = ()
    item: Output | None = None
    aliases: Mapping[str, int] = field(default_factory=dict)
    first: tuple[Output, ...] | None = None
    width: int | None = None
    want: int | None = None
    arms: int = 1
    join: str = ""
    recursive: bool = False
    cte_name: str = ""
    cte_columns: tuple[str, ...] = ()
    outside: tuple[Source, ...] = ()
    groups: tuple[Source, ...] = ()
    bracket: int = 1
    windows: Mapping[str, Window] = field(default_factory=dict)
    foreseen: Mapping[str, Window] = field(default_factory=dict)

    @property
    def called(self) -> tuple[Source, ...]:
        """What a qualifier can mean."""
        return (*self.sources, *self.groups)


class Frame:
    """One level of nesting: a query, or brackets of some kind inside an expression. Never changed: `but` makes another.

    kind       query, paren, row, call, list, case, cast, extract, over, filter, using, names, type
    left       kinds of the expression so far; -1 where one begins
    comparing  kinds that the next operand has to have one of; 0: any will do. among: the same for every member of a list
    last       the keyword, symbol or kind of call that decides what comes next
    holds      whether an aggregate has been called inside
    row        kinds of the columns of the row that is being compared; of a frame of kind row: what its own must be comparable with
    cells      kinds of the columns of a row so far
    window     what brackets of kind over have said of theirs
    listed     the names that brackets of kind names hold so far
    """

    __slots__ = (
        "among", "between", "cells",
        "commas", "comparing", "distinct", "expect", "function", "holds", "kind", "last", "left", "listed",
        "qualifier", "query", "row", "up", "window",
    )  # fmt: skip

    up: Frame | None
    kind: str
    expect: int
    query: Query
    left: int
    comparing: int
    among: int
    between: bool
    last: str
    qualifier: str | None
    function: Function | None
    commas: int
    distinct: bool
    holds: bool
    row: tuple[int, ...]
    cells: tuple[int, ...]
    window: Window
    listed: tuple[str, ...]

    def __init__(
        self,
        up: Frame | None,
        kind: str,
        expect: int,
        query: Query,
        function: Function | None = None,
        comparing: int = 0,
    ) -> None:
        """`query` is the innermost one around: a frame that is no query itself looks it up there."""
        self.up = up
        self.kind = kind
        self.expect = expect
        self.query = query
        self.function = function
        self.comparing = self.among = comparing
        self.left = -1
        self.between = False
        self.last = ""
        self.qualifier = None
        self.commas = 0
        self.distinct = False
        self.holds = False
        self.row = self.cells = ()
        self.window = Window()
        self.listed = ()

    def but(self, **changes: Any) -> Frame:
        other = Frame.__new__(Frame)
        for name in Frame.__slots__:
            setattr(other, name, changes[name] if name in changes else getattr(self, name))
        return other


class Names:
    """The names of a schema as queries in a dialect look them up."""

    def __init__(self, schema: Schema, dialect: Dialect, forward_alias: int, forward_column: int) -> None:
        self.dialect = dialect
        self.forward_alias = forward_alias
        self.forward_column = forward_column
        self.reserved = NOT_ALIASES | dialect.reserved
        self._unquoted: dict[str, bool] = {}
        self.tables: dict[str, Relation] = {}
        self.columns: dict[str, int] = {}
        for table in schema.tables:
            columns = {self.key(column.name.encode(), True): column.kinds for column in table.columns}
            key = self.key(table.name.encode(), True)
            rowids = tuple(name for name in ROWIDS if table.has_rowid and name not in columns)
            relation = self.tables.setdefault(key, Relation(key, columns, len(table.columns), rowids, True))
            for name, kinds in relation.named():
                self.columns[name] = self.columns.get(name, 0) | kinds
        named = {name for relation in self.tables.values() for name in relation.columns}
        # As columns of a sub-query these have no name: whether SQLite says rowid or id is not for the query to know.
        self.nameless = self.columns.keys() - named
        self.namespace = self.key(schema.namespace.encode(), True)
        self.functions = dialect.functions

    def key(self, written: bytes, quoted: bool) -> str:
        """What makes two spellings the same name: its bytes, one a character, so that half a character begins a name too."""
        # Of bytes `lower` folds ASCII alone, as the databases do.
        return (written if quoted and self.dialect.folds_case else written.lower()).decode("latin-1")

    def is_unquoted(self, key: str) -> bool:
        """Whether a name may be written without quotes."""
        found = self._unquoted.get(key)
        if found is None:
            name = key.encode("latin-1").decode()
            found = self._unquoted[key] = usable_unquoted(name, self.dialect)
        return found

    def may_be_alias(self, name: str, relations: Iterable[str], begun: bool) -> bool:
        """Whether a name is taken for an alias that nothing announces, neither AS nor a FROM before it.

        A short one is; so is a letter with a number (T12), and what abbreviates the name of one of the relations: letters of
        it in their order, from the first on (stu, cd for cars_data), with a number perhaps. What a name begins with is taken
        if the name is.
        """
        if any(quote in name for quote in self.dialect.quotes):
            return False
        if whole_length(name) <= self.forward_alias and not (len(name) == self.forward_alias and name in self.reserved):
            return True
        stem = name.rstrip("0123456789")
        if len(name) - len(stem) > 2:
            return False
        if len(stem) == 1:
            return stem.isascii()
        numbered = stem.removesuffix("_") if begun or len(stem) < len(name) else stem
        return any(_abbreviates(stem, relation) or _abbreviates(numbered, relation) for relation in relations)


def whole_length(name: str) -> int:
    """The bytes of a name, one a character of `name`, once the character it may end within is whole."""
    for back, byte in enumerate(reversed(name[-3:]), start=1):
        if byte >= "\xc0":
            return len(name) - back + max(back, 2 + (byte >= "\xe0") + (byte >= "\xf0"))
        if byte < "\x80":
            break
    return len(name)


def _abbreviates(name: str, whole: str) -> bool:
    letters = iter(whole)
    return name[:1] == whole[:1] and all(letter in letters for letter in name)


def innermost_query(frame: Frame) -> Frame:
    while frame.kind != "query":
        assert frame.up is not None
        frame = frame.up
    return frame


def with_query(frame: Frame, **changes: Any) -> Frame:
    """The frame with its innermost query changed, and every frame between."""
    from dataclasses import replace

    query = replace(frame.query, **changes)
    if frame.kind == "query":
        return frame.but(query=query)
    assert frame.up is not None
    return frame.but(up=with_query(frame.up, **changes), query=query)


def owner(query_frame: Frame) -> Frame:
    """The query whose FROM some joins in brackets are part of; any other query is its own."""
    while query_frame.query.role == "joins":
        assert query_frame.up is not None
        query_frame = innermost_query(query_frame.up)
    return query_frame


def enclosing(query_frame: Frame) -> Frame | None:
    """The frame of the query around, where a query of this role may name what is in scope there."""
    query_frame = owner(query_frame)
    return query_frame.up if query_frame.query.role in ("scalar", "in", "exists") else None


def ctes_in_scope(frame: Frame) -> Iterator[Relation]:
    """The CTEs a table may name here, innermost first."""
    at: Frame | None = frame
    while at is not None:
        query_frame = innermost_query(at)
        query = query_frame.query
        yield from reversed(query.ctes)
        at = query_frame.up
        if (
            query.role == "cte"
            and at is not None
            and at.query.recursive
            and (query.first is not None or query.cte_columns)
        ):
            # Inside its own body a recursive CTE is what its first SELECT, or its own list of columns, says.
            yield relation_of(query, at.query.cte_name)


def relation_named(frame: Frame, names: Names, key: str) -> Relation | None:
    for relation in ctes_in_scope(frame):
        if relation.name == key:
            return relation
    return names.tables.get(key)


def look_up(query: Query, qualifier: str | None, name: str) -> int:
    """The kinds of a column among the sources; -1 where no source is meant, 0 where it is wrong or ambiguous."""
    if qualifier is not None:
        for source in query.called:
            if source.is_called(qualifier):
                return source.relation.kinds(name)
        return -1
    found = [source.relation.columns[name] for source in query.sources if name in source.relation.columns]
    if not found and any(name in source.relation.rowids for source in query.sources):
        # SQLite knows it without a table's name where there is only one.
        return NUMBER if len(query.sources) == 1 else 0
    if len(found) > 1 and name not in query.merged:
        return 0
    return found[0] if found else -1


def is_open(query: Query) -> bool:
    """Whether the sources are not known yet."""
    return query.clause in ("begin", "with", "items")


def is_ambiguous(query: Query) -> bool:
    """Whether a column that was named without its table has turned out to be of several sources."""
    for reference in query.pending:
        if reference.qualifier is None:
            kinds = look_up(query, None, reference.name)
            if kinds == 0 or (kinds > 0 and any(reference.name in one.relation.columns for one in query.outside)):
                return True
    return False


def apart(frame: Frame) -> Frame:
    """The columns of what FROM named last are its own: USING has made none of them one with those before it."""
    query = frame.query
    before, newest = query.sources[: -query.bracket], query.sources[-query.bracket :]
    twice = {
        name
        for source in newest
        for name in query.merged & source.relation.columns.keys()
        if any(name in other.relation.columns for other in before)
    }
    return with_query(frame, merged=query.merged - twice) if twice else frame


def is_alone(query: Query) -> bool:
    """Whether nothing can be joined to the one source in a bracket: it is joined by NATURAL, whose columns are its own."""
    return query.role == "joins" and query.clause == "from" and query.join == "natural" and len(query.sources) == 1


def wants_one_table(query: Query) -> bool:
    """Whether the rowid was named without its table, so that no other one may be joined."""
    sources = (*query.outside, *query.sources)
    return any(
        ref.qualifier is None and any(ref.name in source.relation.rowids for source in sources) for ref in query.pending
    )


def orders_result(query: Query) -> bool:
    """Whether only columns of the result can be named: in ORDER BY after several SELECTs."""
    return query.clause in ("order", "limit") and query.arms > 1


def takes_aliases(query: Query) -> bool:
    return query.clause in ("group", "having", "order")


def refer(frame: Frame, names: Names, qualifier: str | None, name: str) -> tuple[int, Frame] | None:
    """What a column may be compared with, and the frame, which may have it noted for later. None where it means nothing.

    A name that the innermost query does not know may be of the query around, whose FROM may still have to come.
    """
    query_frame = innermost_query(frame)
    query = query_frame.query
    outer = enclosing(query_frame)
    if is_open(query):
        kinds = _foreseen(query_frame, names, qualifier, name)
        if not kinds:
            return None
        return kinds, with_query(frame, pending=(*query.pending, Reference(qualifier, name)))
    if orders_result(query):
        # Of several SELECTs only the columns of the result can be named.
        found = [output.kinds for output in query.first or () if output.name == name and not output.star]
        return (found[0], frame) if found and qualifier is None else None
    if qualifier is None and takes_aliases(query) and name in query.aliases:
        return query.aliases[name], frame
    kinds = look_up(query, qualifier, name)
    if kinds > 0:
        if query.clause == "on" and qualifier is None and names.dialect.name == "sqlite":
            # SQLite looks for it in what FROM will still name, too.
            frame = with_query(frame, pending=(*query.pending, Reference(None, name)))
        return kinds, frame
    if kinds == 0 or outer is None:
        return None
    found_outside = refer(outer, names, qualifier, name)
    if found_outside is None:
        return None
    kinds, changed = found_outside
    return kinds, frame if changed is outer else _above(frame, owner(query_frame), changed)


def _above(frame: Frame, query_frame: Frame, up: Frame) -> Frame:
    """The frames from `frame` down to `query_frame`, on top of another frame."""
    if frame is query_frame:
        return frame.but(up=up)
    assert frame.up is not None
    return frame.but(up=_above(frame.up, query_frame, up))


def _foreseen(query_frame: Frame, names: Names, qualifier: str | None, name: str) -> int:
    """What a column named in the select list may turn out to be; 0 where no FROM can make it good."""
    kinds = 0
    for known, found in candidates(query_frame, names, qualifier):
        if known == name:
            kinds |= found
    if not kinds and len(name) <= names.forward_column:
        own = qualifier is not None and qualifier.removeprefix(STORED) in names.tables
        kinds = 0 if own else ANY
    return kinds


def candidates(frame: Frame, names: Names, qualifier: str | None) -> Iterator[tuple[str, int]]:
    """The columns that may be named here, with their kinds; a name may come several times."""
    query_frame = innermost_query(frame)
    query = query_frame.query
    outer = enclosing(query_frame)
    if not is_open(query):
        if orders_result(query):
            if qualifier is None:
                yield from ((output.name, output.kinds) for output in query.first or () if output.name)
            return
        if qualifier is None and takes_aliases(query):
            yield from query.aliases.items()
        for source in query.sources if qualifier is None else query.called:
            if qualifier is None:
                for name, kinds in source.relation.named():
                    if look_up(query, None, name):
                        yield name, kinds
            elif source.is_called(qualifier):
                yield from source.relation.named()
                return
        if outer is not None:
            for name, kinds in candidates(outer, names, qualifier):
                if qualifier is not None or look_up(query, None, name) < 0:
                    yield name, kinds
        return
    if qualifier is None:
        yield from names.columns.items()
        for relation in ctes_in_scope(query_frame):
            yield from relation.columns.items()
    elif (alias := qualifier.removeprefix(STORED)) in names.tables:
        yield from names.tables[alias].named()
        return
    else:
        # An alias that FROM will give: to a relation that has everything else named by it.
        others = {ref.name for ref in query.pending if ref.means(alias)}
        stored = alias != qualifier or any(ref.qualifier == STORED + alias for ref in query.pending)
        ctes = [] if stored else list(ctes_in_scope(query_frame))
        own = [relation for relation in ctes if relation.name == alias]
        for relation in own or (*ctes, *names.tables.values()):
            if all(map(relation.kinds, others)) or any(len(name) <= names.forward_column for name in others):
                yield from relation.named()
    if outer is not None:
        yield from candidates(outer, names, qualifier)


def qualifiers(frame: Frame, names: Names, stored: bool) -> Iterator[str]:
    """The names that may stand before a dot here, beside those that FROM will give; stored: those of tables and views alone."""
    query_frame = innermost_query(frame)
    query = query_frame.query
    if is_open(query):
        yield from names.tables
        if not stored:
            yield from (relation.name for relation in ctes_in_scope(query_frame))
    else:
        if orders_result(query):
            return
        yield from (source.alias for source in query.called if source.relation.stored or not stored)
    if (outer := enclosing(query_frame)) is not None:
        yield from qualifiers(outer, names, stored)


def hopes_for_names(frame: Frame) -> bool:
    """Whether some FROM that the name may come from has not been written yet."""
    query_frame = innermost_query(frame)
    if is_open(query_frame.query):
        return True
    if orders_result(query_frame.query):
        return False
    outer = enclosing(query_frame)
    return outer is not None and hopes_for_names(outer)


def resolve_pending(frame: Frame, names: Names) -> Frame | None:
    """The query frame once its FROM is whole: what the select list named is found, here or in the query around."""
    query = frame.query
    up = frame.up
    for reference in query.pending:
        kinds = look_up(query, reference.qualifier, reference.name)
        if kinds > 0:
            continue
        outer = enclosing(frame.but(up=up))
        if kinds == 0 or outer is None:
            return None
        found = refer(outer, names, reference.qualifier, reference.name)
        if found is None:
            return None
        up = found[1]
    outputs: list[Output] = []
    for output in query.outputs:
        if not output.star:
            outputs.append(output)
            continue
        starred = [source for source in query.sources if not output.name or source.alias == output.name]
        if not starred:
            return None
        seen: set[str] = set()
        for source in starred:
            for name, kinds in source.relation.columns.items():
                if output.name or name not in query.merged or name not in seen:
                    outputs.append(Output(name, kinds))
                seen.add(name)
            unnamed = source.relation.width - len(source.relation.columns)
            outputs += [Output("", ANY)] * unnamed
    return with_query(frame, pending=(), outputs=tuple(outputs), width=len(outputs)).but(up=up)


def closed_bracket(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """What SQLite makes of sources in brackets that are joined to others, or have a name: a sub-query with all their columns.

    The sources' names are still known, those of brackets within and the keys of rows are not. Of a single source only the
    table is taken, without the name that it was given.
    """
    if len(sources) == 1:
        relation = sources[0].relation
        return (Source(relation.name, relation),)
    return tuple(source._replace(relation=source.relation._replace(rowids=())) for source in sources)


def relation_of(query: Query, name: str) -> Relation:
    """What a finished query gives, as a relation. A name that comes twice cannot be named."""
    outputs = query.first if query.first is not None else query.outputs
    if query.cte_columns:
        known = {k: output.kinds for k, output in enumerate(outputs)}
        outputs = tuple(Output(column, known.get(k, ANY)) for k, column in enumerate(query.cte_columns))
    named = [output.name for output in outputs if output.name]
    columns = {output.name: output.kinds for output in outputs if output.name and named.count(output.name) == 1}
    return Relation(name, columns, len(outputs), outputs=outputs)


def with_columns(relation: Relation, listed: tuple[str, ...]) -> Relation:
    """A sub-query whose first columns a list gives other names."""
    outputs = relation.outputs[len(listed) :]
    called = [*listed, *(output.name for output in outputs)]
    kinds = [output.kinds for output in relation.outputs]
    columns = {name: kind for name, kind in zip(called, kinds, strict=True) if name and called.count(name) == 1}
    return relation._replace(columns=columns)


def wanted_of_list(query: Query, alias: str, listed: tuple[str, ...]) -> set[str]:
    """The columns that were named by the alias of a sub-query, and that the list after it has not given yet."""
    return {ref.name for ref in query.pending if ref.means(alias)} - set(listed)
