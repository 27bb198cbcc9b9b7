"""What differs between the dialects of SQL: quoting, reserved words, operators, types, and the functions that are allowed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from grammars.errors import GrammarError
from grammars.queries.schema import ANY, BOOL, NUMBER, TEXT, TIME


def _words(*texts: str) -> frozenset[str]:
    return frozenset(word for text in texts for word in text.split())


# Words that may begin an operand: a column of such a name has to be quoted.
OPERAND_WORDS = _words(
    """select with values distinct all not exists null true false case cast extract interval current_date current_time
    current_timestamp"""
)
# Words that the grammar itself uses: no alias is one of them.
KEYWORDS = OPERAND_WORDS | _words(
    """from where group by having order limit offset recursive as join inner left right full outer cross natural on using
    union intersect except and or in is between like ilike glob when then else end asc desc nulls first last over partition
    rows range groups unbounded preceding following current row filter escape collate window"""
)
# What ends a part of a query. An alias without AS does not begin like one of these: whether WHERE may come is then decided
# before what follows it.
CLAUSE_WORDS = _words(
    "from where group having order limit join inner left right full cross natural using union intersect except window"
)
# Words that one of the databases does not take as a name. Source: SQLite, lang_keywords.html (without those that fall back to
# names); PostgreSQL 17, appendix C, "reserved"; MySQL 8.4, section 11.3.
_RESERVED_SQLITE = """add alter and as autoincrement between case check collate commit constraint create default deferrable
    delete distinct drop else escape except exists foreign from group having in index insert intersect into is isnull join
    limit not nothing notnull null on or order primary references returning select set table then to transaction union unique
    update using values when where cross natural left right full inner outer"""
_RESERVED_POSTGRESQL = """analyse analyze and any array as asc asymmetric authorization binary both case cast check collate
    collation column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze from full
    grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit localtime
    localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references returning right
    select session_user similar some symmetric system_user table tablesample then to trailing true union unique user using
    variadic verbose when where window with"""
_RESERVED_MYSQL = """accessible before bigint blob call cascade change char character condition continue convert cube cursor
    database databases dec decimal declare delayed delete describe div double dual each elseif enclosed escaped exit explain
    float force fulltext function generated get groups grouping high_priority if ignore index infile insert int integer
    interval key keys kill lag lead leave lines load lock long loop match mod numeric of optimize option out outfile
    over partition precision procedure purge range rank read reads real regexp release rename repeat replace require restrict
    return revoke rlike row rows row_number schema schemas separator set show signal smallint sql ssl starting stored straight_join
    system terminated tinyint trigger undo unlock unsigned update usage use utc_date values varchar varying virtual while write
    xor year_month zerofill add alter drop dense_rank cume_dist first_value last_value nth_value ntile percent_rank"""


@dataclass(frozen=True)
class Function:
    """A function that a query may call. `most` is None where any number of arguments will do.

    role  scalar, aggregate, window (which needs OVER), or either (SQLite's max: an aggregate of one argument, else scalar)
    """

    least: int
    most: int | None
    kinds: int
    role: str = "scalar"


@dataclass(frozen=True)
class Dialect:
    """One dialect. `name` is SQLAlchemy's; `sqlglot` the parser's."""

    name: str
    sqlglot: str
    quotes: str  # what quotes an identifier; any of them, twice over, stands for itself
    double_quoted_strings: bool  # "x" may be a string
    folds_case: bool  # unquoted names are lower case, and quoted ones are matched as they stand
    condition_required: bool  # a JOIN that is not CROSS or NATURAL needs ON or USING
    full_join: bool
    derived_alias_required: bool
    likes: tuple[str, ...]
    casts: bool  # a::type
    is_compares: bool  # a IS b, whatever b is; COLLATE with the three names that SQLite has
    limit_comma: bool  # LIMIT offset, count
    frame_groups: bool  # GROUPS beside ROWS and RANGE
    escapes_in_strings: bool  # a backslash in a string takes the next character's meaning
    set_all: tuple[str, ...]  # set operations that may say ALL
    types: tuple[str, ...]
    functions_text: str
    reserved: frozenset[str]
    brackets: bool = False  # [x] is a quoted name
    # What VALUES calls its columns, and the number of the first. None where it is no source: MySQL writes VALUES ROW(1), which
    # MariaDB does not read.
    values_column: tuple[str, int] | None = None
    row_subquery: bool = True  # (a, b) = (SELECT ...)
    window_in_order: bool = True  # ORDER BY may use a window of WINDOW
    # What no other has: one table in brackets; a name or USING after joins in brackets; (a, b) BETWEEN and (a, b) IS;
    # a frame after the name of a window, or without ORDER BY; 1. as a number; numbers in ORDER BY that count no column.
    lenient: bool = False
    # (SELECT ...) AS v(a, b) names the columns: "all" of them, or "some", the first ones. "" where no list may come.
    column_list: str = ""
    joins_operators: bool = False  # characters of operators side by side are one operator: 1 %-2 calls %-

    @cached_property
    def functions(self) -> dict[str, Function]:
        return _functions(self.functions_text)


_KIND_LETTERS = {"N": NUMBER, "T": TEXT, "D": TIME, "B": BOOL, "A": ANY}


@cache
def _functions(text: str) -> dict[str, Function]:
    """From entries such as `round/1-2/N`: name, numbers of arguments, kind of the result, and a role's first letter."""
    found = {}
    for entry in text.split():
        name, counts, kind, *role = entry.split("/")
        least, _, most = counts.partition("-")
        found[name] = Function(
            int(least),
            int(most or least) if not counts.endswith("-") else None,
            _KIND_LETTERS[kind],
            {"": "scalar", "a": "aggregate", "w": "window", "e": "either"}["".join(role)],
        )
    return found


_WINDOW = """row_number/0/N/w rank/0/N/w dense_rank/0/N/w percent_rank/0/N/w cume_dist/0/N/w ntile/1/N/w lag/1-3/A/w
    lead/1-3/A/w first_value/1/A/w last_value/1/A/w nth_value/2/A/w"""
_COMMON = """count/1/N/a sum/1/N/a avg/1/N/a abs/1/N round/1-2/N length/1/N lower/1/T upper/1/T trim/1/T ltrim/1-2/T rtrim/1-2/T
    substr/2-3/T substring/2-3/T replace/3/T nullif/2/A"""
_SQLITE = """max/1-/A/e min/1-/A/e total/1/N/a group_concat/1-2/T/a coalesce/2-/A ifnull/2/A iif/3/A instr/2/N
    date/0-/D time/0-/D datetime/0-/D julianday/0-/N strftime/1-/A typeof/1/T
    printf/1-/T format/1-/T random/0/N hex/1/T unicode/1/N char/1-/T sign/1/N unixepoch/0-/N json_extract/2-/A
    json_array_length/1-2/N"""
_MATH = "ceil/1/N ceiling/1/N floor/1/N sqrt/1/N power/2/N exp/1/N ln/1/N mod/2/N sign/1/N"
_POSTGRESQL = """max/1/A/a min/1/A/a coalesce/1-/A greatest/1-/A least/1-/A concat/1-/T concat_ws/2-/T char_length/1/N
    initcap/1/T btrim/1-2/T strpos/2/N left/2/T right/2/T split_part/3/T reverse/1/T date_trunc/2/D date_part/2/N to_char/2/T
    to_date/2/D age/1-2/D now/0/D string_agg/2/T/a array_agg/1/A/a bool_and/1/B/a bool_or/1/B/a stddev/1/N/a variance/1/N/a"""
_MYSQL = """max/1/A/a min/1/A/a coalesce/1-/A greatest/2-/A least/2-/A concat/1-/T concat_ws/2-/T char_length/1/N left/2/T
    right/2/T locate/2-3/N instr/2/N ifnull/2/A if/3/A substring_index/3/T reverse/1/T year/1/N month/1/N day/1/N date/1/D
    date_format/2/T datediff/2/N timestampdiff/3/N curdate/0/D now/0/D group_concat/1/T/a stddev/1/N/a variance/1/N/a"""
_DUCKDB = """max/1/A/a min/1/A/a coalesce/1-/A ifnull/2/A greatest/1-/A least/1-/A concat/1-/T concat_ws/2-/T left/2/T right/2/T
    instr/2/N strpos/2/N split_part/3/T reverse/1/T date_trunc/2/D date_part/2/N date_diff/3/N strftime/2/T year/1/N month/1/N
    day/1/N string_agg/1-2/T/a group_concat/1-2/T/a median/1/A/a mode/1/A/a stddev/1/N/a variance/1/N/a bool_and/1/B/a
    bool_or/1/B/a list/1/A/a"""
_STANDARD_TYPES = (
    "integer", "int", "bigint", "smallint", "real", "numeric", "decimal", "text", "date", "timestamp", "time", "boolean", "varchar",
)  # fmt: skip


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "sqlite", "sqlite", '"`', True, False, False, True, False, ("like", "glob"), False, True, True, True, False, ("union",),
            ("integer", "int", "real", "numeric", "text", "blob", "float", "double", "date", "datetime", "varchar", "decimal"),
            f"{_WINDOW} {_COMMON} {_SQLITE}", OPERAND_WORDS | _words(_RESERVED_SQLITE),
            brackets=True, values_column=("column", 1), lenient=True,
        ),
        Dialect(
            "postgresql", "postgres", '"', False, True, True, True, True, ("like", "ilike"), True, False, False, True, False,
            ("union", "intersect", "except"), (*_STANDARD_TYPES, "double precision", "float", "interval"),
            f"{_WINDOW} {_COMMON} {_POSTGRESQL} {_MATH}", OPERAND_WORDS | _words(_RESERVED_POSTGRESQL),
            values_column=("column", 1), column_list="some", joins_operators=True,
        ),
        Dialect(
            "mysql", "mysql,normalization_strategy=case_insensitive",
            "`", True, False, False, False, True, ("like",), False, False, True, False, True,
            ("union", "intersect", "except"),
            ("signed", "unsigned", "char", "date", "datetime", "time", "decimal", "double"),
            f"{_WINDOW} {_COMMON} {_MYSQL} {_MATH}", OPERAND_WORDS | _words(_RESERVED_MYSQL, _RESERVED_POSTGRESQL),
            column_list="all",
        ),
        Dialect(
            "duckdb", "duckdb", '"', False, False, True, True, False, ("like", "ilike"), True, False, False, True, False,
            ("union", "intersect", "except"), (*_STANDARD_TYPES, "double", "float", "interval"),
            f"{_WINDOW} {_COMMON} {_DUCKDB} {_MATH}", OPERAND_WORDS | _words(_RESERVED_POSTGRESQL, "qualify pivot unpivot"),
            values_column=("col", 0), row_subquery=False, window_in_order=False, column_list="some",
            joins_operators=True,
        ),
    )
}  # fmt: skip
# An alias is none of these, so that the same text would not be refused for its alias in another dialect.
NOT_ALIASES = KEYWORDS | _words(_RESERVED_SQLITE, _RESERVED_POSTGRESQL, "window values qualify")


def dialect_named(name: str) -> Dialect:
    if name not in DIALECTS:
        raise GrammarError(f"dialect={name!r} is not supported; use one of {', '.join(DIALECTS)}")
    return DIALECTS[name]
