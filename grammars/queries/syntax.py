"""A schema and a dialect as a context-free grammar: the syntax of a SELECT, with the database's own names in their places.

White space is written out, bounded, and required between words. The grammar exists three times over, side by side:

    _s  a SELECT whose FROM names the database's tables alone: its columns are the database's own
    _o  a SELECT whose FROM has a sub-query in it, which may give its columns any name
    _w  everything under a WITH, whose names may stand for tables and columns alike

Which names are in scope is not context-free: `scope` judges that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from grammars.queries.dialect import CLAUSE_WORDS, KEYWORDS, NOT_ALIASES, Dialect
from grammars.queries.schema import Schema

CONSTANTS = ("null", "true", "false", "current_date", "current_time", "current_timestamp")
FIELDS = ("year", "month", "day", "hour", "minute", "second", "quarter", "week", "dow", "doy", "epoch")
# What SQLite calls the key of a table's rows, where no column is called so.
ROWIDS = ("rowid", "oid", "_rowid_")
PLAIN_NAME = re.compile(r"[^\W\d]\w*")


def usable_unquoted(name: str, dialect: Dialect) -> bool:
    """Whether a name of the database may be written without quotes."""
    if dialect.folds_case and name != name.lower():
        return False
    return PLAIN_NAME.fullmatch(name) is not None and name.lower() not in dialect.reserved


def lark_of_schema(
    schema: Schema, dialect: Dialect, name_length: int, bare_length: int, string_length: int, forward_columns: bool
) -> str:
    """The grammar in llguidance's dialect of Lark.

    name_length      characters that an alias may have; bare_length: that one without AS may have, at least 1
    string_length    characters of a string literal
    forward_columns  whether a select list may name columns that a sub-query in FROM defines after it
    """
    tables = [table.name for table in schema.tables]
    columns = [column.name for table in schema.tables for column in table.columns]
    if any(table.has_rowid for table in schema.tables):
        columns += ROWIDS
    valued = dialect.values_column is not None
    parts = [
        _terminals(tables, columns, schema.namespace, dialect, name_length, bare_length, string_length),
        _TOP.format(order=_order("o", dialect), order_w=_order("w", dialect), valued_w=" | valued_w" if valued else ""),
        _core("s", "s", dialect, schema.namespace),
        _core("o", "o" if forward_columns else "s", dialect, schema.namespace),
        _core("w", "w", dialect, schema.namespace),
    ]
    return "\n".join(parts)


_TOP = r"""
start: w (query | with) (w ";")?
w: W?
query: body{order}
body: (core_s | core_o) (W setop W (core_s | core_o))*
with: K_WITH W (K_RECURSIVE W)? cte (w "," w cte)* W query_w
cte: name column_list? W K_AS W "(" w (query_w{valued_w}) w ")"
query_w: core_w (W setop W core_w)*{order_w}
column_list: w "(" w name (w "," w name)* w ")"
name: ALIAS | QUOTED
"""


def _order(x: str, dialect: Dialect) -> str:
    more = '(W K_OFFSET W INTEGER | w "," w INTEGER)?' if dialect.limit_comma else "(W K_OFFSET W INTEGER)?"
    return f' (W K_ORDER W K_BY W order_{x} (w "," w order_{x})*)? (W K_LIMIT W INTEGER {more})?'


def _core(x: str, items: str, dialect: Dialect, namespace: str) -> str:
    """The rules of one of the three grammars. `items` is the one of its select list, `y` the one where aliases may stand."""
    y = "o" if x == "s" else x
    # Under a sub-query in FROM, as under WITH, what is nested may name columns that are not the database's.
    query = "query" if x == "s" else "query_w"
    column = "COLUMN" if x == "s" else "ALIAS | QUOTED | COLUMN"
    condition = rf'(W K_ON W expr_{x} | W K_USING w "(" w cname_{x} (w "," w cname_{x})* w ")")'
    condition += "" if dialect.condition_required else "?"
    inner = "W (K_INNER W)? K_JOIN W"
    sides = f"W (K_LEFT | K_RIGHT{' | K_FULL' if dialect.full_join else ''}) W (K_OUTER W)? K_JOIN W"
    valued = f" | valued_{x}" if dialect.values_column is not None else ""
    called = f"named{' column_list?' if dialect.column_list else ''}"
    derived = rf'"(" w ({query}{valued}) w ")" ' + (called if dialect.derived_alias_required else f"({called})?")

    some, of_bracket = ("*", " named?") if dialect.lenient else ("+", "")

    def joins(source: str) -> str:
        plain = rf"W (K_CROSS | K_NATURAL) W K_JOIN W {source} | W K_NATURAL ({sides}) {source}"
        return rf'w "," w {source} | ({inner} | {sides}) {source} {condition} | {plain}'

    if x == "s":
        sources = rf"""from_s: table_s join_s*
join_s: {joins("table_s")}
bracket_s: "(" w table_s join_s{some} w ")"{of_bracket}
"""
    elif x == "o":
        # At least one sub-query, or everything would be read twice over.
        sources = rf"""from_o: derived_o join_o* | table_o joined_o* other_o join_o*
joined_o: {joins("table_o")}
other_o: {joins("derived_o")}
join_o: joined_o | other_o
derived_o: {derived}{f' | "(" w from_o w ")"{of_bracket}' if dialect.lenient else ""}"""
    else:
        sources = rf"""from_w: (table_w | derived_w) join_w*
join_w: {joins("(table_w | derived_w)")}
bracket_w: "(" w (table_w | derived_w) join_w{some} w ")"{of_bracket}
derived_w: {derived}"""
    qualified = ' | NAMESPACE "." TABLE' if namespace else ""
    table = f"(ALIAS | QUOTED | TABLE{qualified})" if x == "w" else f"(TABLE{qualified})"
    # Joins in brackets are joins of tables unless under WITH, where all is.
    bracket = "bracket_w" if x == "w" else "bracket_s"
    globs = " | ".join(f"K_{like.upper()}" for like in dialect.likes if like == "glob")
    likes = " | ".join(f"K_{like.upper()}" for like in dialect.likes if like != "glob")
    likes = f"(W K_NOT)? W ({likes}) W arith_{x} (W K_ESCAPE W ESCAPED)?"
    likes += f" | (W K_NOT)? W {globs} W arith_{x}" if globs else ""
    what_is = f"arith_{x}" if dialect.is_compares else "K_NULL"
    casts = ' (w "::" w TYPE)?' if dialect.casts else ""
    casts = " (W K_COLLATE W COLLATION)?" if dialect.is_compares else casts
    extract = rf' | K_EXTRACT "(" w FIELD W K_FROM W expr_{x} w ")" | K_INTERVAL W STRING' if dialect.casts else ""
    quoted_string = " | DOUBLE_QUOTED" if dialect.double_quoted_strings else ""
    distinct_from = (
        f" | W K_IS W (K_NOT W)? (K_TRUE | K_FALSE | K_DISTINCT W K_FROM W arith_{x})" if dialect.casts else ""
    )
    from_clause = (
        rf"W K_FROM W from_{x} (W K_WHERE W expr_{x})? (W K_GROUP W K_BY W exprs_{y} (W K_HAVING W expr_{y})?)?"
        rf' (W K_WINDOW W defined_{y} (w "," w defined_{y})*)?'
    )
    if x != "o":
        from_clause = f"({from_clause})?"
    # Only within brackets: what stands alone is a SELECT.
    valued_rule = (
        rf"""valued_{x}: values_{x} (W setop W {"core_w" if query == "query_w" else "(core_s | core_o)"})*
values_{x}: K_VALUES w cells_{x} (w "," w cells_{x})*
cells_{x}: "(" w exprs_{x} w ")"
"""
        if valued
        else ""
    )
    row_query = rf' | w COMPARISON w "(" w {query} w ")"' if dialect.row_subquery else ""
    other_row = rf'(row_{x} | "(" w {query} w ")")'
    row_query += (
        rf" | (W K_NOT)? W K_BETWEEN W {other_row} W K_AND W {other_row} | W K_IS W (K_NOT W)? {other_row}"
        if dialect.lenient
        else ""
    )
    sorted_x = f"(sorted_{x}{' | frame' if dialect.lenient else ''})"
    based = f"name (W {sorted_x})?"
    named_column = f' | NAMESPACE "." qualifier "." cname_{x}' if namespace else ""
    return rf"""
core_{x}: K_SELECT W ((K_DISTINCT | K_ALL) W)? item_{items} (w "," w item_{items})* {from_clause}
item_{x}: STAR | qualifier "." STAR | expr_{x} named?
{sources}
table_{x}: {table} named? | {bracket}
order_{x}: expr_{x} (W (K_ASC | K_DESC))? (W K_NULLS W (K_FIRST | K_LAST))?
exprs_{x}: expr_{x} (w "," w expr_{x})*
expr_{x}: unit_{x} (W (K_AND | K_OR) W unit_{x})*
unit_{x}: (K_NOT W)* (arith_{x} tail_{x}? | row_{x} compared_{x})
row_{x}: "(" w expr_{x} (w "," w expr_{x})+ w ")"
compared_{x}: w COMPARISON w row_{x}{row_query}
    | (W K_NOT)? W K_IN w "(" w ({query}{valued} | row_{x} (w "," w row_{x})*) w ")"
{valued_rule}
tail_{x}: w COMPARISON w arith_{x}
    | W K_IS W (K_NOT W)? {what_is}{distinct_from}
    | {likes}
    | (W K_NOT)? W K_IN w "(" w ({query}{valued} | exprs_{x}) w ")"
    | (W K_NOT)? W K_BETWEEN W arith_{x} W K_AND W arith_{x}
arith_{x}: cast_{x} (w ARITHMETIC w cast_{x} | w STAR w cast_{x})*
cast_{x}: (SIGN w)? operand_{x}{casts}
operand_{x}: NUMBER | STRING{quoted_string} | CONSTANT | column_{x}
    | FUNCTION "(" w exprs_{x}? w ")"
    | AGGREGATE "(" w (K_DISTINCT W)? exprs_{x} w ")" rest_{x}
    | K_COUNT "(" w STAR w ")" rest_{x}
    | WINDOW "(" w exprs_{x}? w ")" over_{x}
    | K_CASE (W expr_{x})? (W K_WHEN W expr_{x} W K_THEN W expr_{x})+ (W K_ELSE W expr_{x})? W K_END
    | K_CAST w "(" w expr_{x} W K_AS W TYPE w ")"{extract}
    | (K_EXISTS w)? "(" w {query} w ")"
    | "(" w expr_{x} w ")"
column_{x}: cname_{x} | qualifier "." cname_{x}{named_column}
cname_{x}: {column}
rest_{x}: (W K_FILTER w "(" w K_WHERE W expr_{x} w ")")? over_{x}?
over_{x}: W K_OVER (w "(" w (window_{x} w)? ")" | W name)
defined_{x}: name W K_AS w "(" w (window_{x} w)? ")"
window_{x}: partition_{x} (W {sorted_x})? | {sorted_x} | {based}
partition_{x}: K_PARTITION W K_BY W exprs_{x}
sorted_{x}: K_ORDER W K_BY W order_{x} (w "," w order_{x})* (W frame)?
"""


def _terminals(
    tables: list[str],
    columns: list[str],
    namespace: str,
    dialect: Dialect,
    name_length: int,
    bare_length: int,
    string_length: int,
) -> str:
    roles: dict[str, list[str]] = {"scalar": [], "aggregate": [], "window": [], "either": []}
    for name, function in dialect.functions.items():
        roles[function.role].append(name)
    # An aggregate of one argument that is a plain function of more stands in both places.
    scalars, aggregates = roles["scalar"] + roles["either"], roles["aggregate"] + roles["either"]
    quoted = [
        rf'"([^"\x00-\x1f]){{1,{name_length}}}"' if quote == '"' else rf"`([^`\x00-\x1f]){{1,{name_length}}}`"
        for quote in dialect.quotes
    ]
    if dialect.brackets:
        quoted.append(rf"\[([^\]\x00-\x1f]){{1,{name_length}}}\]")
    inside = r"\x00-\x1f" + (r"\\" if dialect.escapes_in_strings else "")
    wide = "K_ROWS | K_GROUPS" if dialect.frame_groups else "K_ROWS"
    lines = [
        *(f"K_{word.upper()}: /{_either([word])}/" for word in sorted(KEYWORDS | {"count"})),
        r"W: /[ \t\r\n]{1,12}/",
        'STAR: "*"',
        'SIGN: "-" | "+" | "~"',
        rf"NUMBER: /[0-9]{{1,15}}(\.[0-9]{{{0 if dialect.lenient else 1},15}})?([eE][+-]?[0-9]{{1,2}})?/",
        r"INTEGER: /[0-9]{1,9}/",
        rf"STRING: /'([^'{inside}]|''){{0,{string_length}}}'/",
        rf'DOUBLE_QUOTED: /"([^"{inside}]|""){{0,{string_length}}}"/',
        rf"ESCAPED: /'[^'{inside}]'/",
        "COLLATION: /" + _either(("nocase", "binary", "rtrim")) + "/",
        'COMPARISON: "=" | "!=" | "<>" | "<" | "<=" | ">" | ">="' + (' | "=="' if dialect.name in ("sqlite", "duckdb") else ""),
        'ARITHMETIC: "+" | "-" | "/" | "%" | "&" | "|" | "<<" | ">>"' + ("" if dialect.name == "mysql" else ' | "||"'),
        f"CONSTANT: /{_either(CONSTANTS)}/",
        f"FUNCTION: /{_either(scalars)}/",
        f"AGGREGATE: /{_either(aggregates)}/",
        f"WINDOW: /{_either(roles['window'])}/",
        rf"TYPE: /({_either(dialect.types)})(\([0-9]{{1,3}}(, ?[0-9]{{1,3}})?\))?/",
        f"FIELD: /{_either(FIELDS)}/",
        f"IDENTIFIER: /[A-Za-z_][A-Za-z0-9_]{{0,{name_length - 1}}}/",
        f"RESERVED: /{_either(sorted(NOT_ALIASES | dialect.reserved))}/",
        "ALIAS: IDENTIFIER & ~RESERVED",
        f"CLAUSE: /({_either(sorted(CLAUSE_WORDS))})[A-Za-z0-9_]*/",
        f"BARE: /[A-Za-z_][A-Za-z0-9_]{{0,{bare_length - 1}}}/ & ~RESERVED & ~CLAUSE",
        f"QUOTED: /{'|'.join(quoted)}/",
        f"TABLE: {_names(tables, dialect)}",
        f"COLUMN: {_names(columns, dialect)}",
        *([f"NAMESPACE: {_names([namespace], dialect)}"] if namespace else []),
        "qualifier: ALIAS | QUOTED | TABLE",
        "named: W K_AS W name | W (BARE | QUOTED)",
        "setop: " + " | ".join(
            f"K_{op.upper()}" + (" (W K_ALL)?" if op in dialect.set_all else "") for op in ("union", "intersect", "except")
        ),
        f"frame: K_RANGE W (low | K_BETWEEN W low W K_AND W high) | ({wide}) W (low | before | K_BETWEEN W between)",
        "low: K_UNBOUNDED W K_PRECEDING | K_CURRENT W K_ROW",
        "high: K_CURRENT W K_ROW | K_UNBOUNDED W K_FOLLOWING",
        "before: INTEGER W K_PRECEDING",
        "after: INTEGER W K_FOLLOWING",
        "between: (K_UNBOUNDED W K_PRECEDING | before) W K_AND W (before | high | after)"
        " | K_CURRENT W K_ROW W K_AND W (high | after) | after W K_AND W (after | K_UNBOUNDED W K_FOLLOWING)",
    ]  # fmt: skip
    return "\n".join(lines)


def _names(names: Iterable[str], dialect: Dialect) -> str:
    """A terminal of the database's names as they may be written."""
    distinct = sorted(set(names))
    plain = [name for name in distinct if usable_unquoted(name, dialect)]
    ways = [f"/{_either(plain)}/"] if plain else []
    spelled = _exactly if dialect.folds_case else _in_any_case
    for quote in dialect.quotes:
        ways.append(f"/{quote}({'|'.join(spelled(name.replace(quote, quote * 2)) for name in distinct)}){quote}/")
    bracketed = [name for name in distinct if "]" not in name]
    if dialect.brackets and bracketed:
        ways.append(rf"/\[({'|'.join(map(_in_any_case, bracketed))})\]/")
    return " | ".join(ways)


def _either(words: Iterable[str]) -> str:
    return "|".join(map(_in_any_case, words))


def _in_any_case(word: str) -> str:
    """A pattern for a word in capital and small letters: the databases fold ASCII alone, a case-insensitive pattern more."""
    return "".join(
        f"[{char.lower()}{char.upper()}]" if char.isascii() and char.isalpha() else _exactly(char) for char in word
    )


def _exactly(text: str) -> str:
    return re.sub(r"([\\/.*+?^$|()\[\]{}\"&~])", r"\\\1", text)
