"""Options that commands have in common: each constraint's own, and those of every command that generates."""

from __future__ import annotations

import argparse
from typing import Any

SAMPLERS = ("auto", "masked", "awrs", "look_ahead", "geometric", "top_k", "lcd")
RESAMPLING = ("systematic", "stratified", "residual", "multinomial")
WHITESPACE = ("compact", "spaced", "bounded", "pretty", "flexible")

# argparse's groups and parsers: both take add_argument.
Group = Any


def json_options(group: Group) -> None:
    group.add_argument(
        "--whitespace",
        choices=WHITESPACE,
        default="bounded",
        help="none; as json.dumps writes; at most one after , and : (default); as json.dumps(indent=2); any",
    )
    group.add_argument(
        "--key-order",
        choices=("schema", "any"),
        default="schema",
        help="the schema's order of members (default), or any",
    )
    group.add_argument(
        "--spelling",
        choices=("plain", "any"),
        default="plain",
        help="any: every spelling that JSON has, with --key-order any",
    )
    group.add_argument(
        "--formats",
        choices=("assert", "annotate"),
        default="assert",
        help="whether `format` is enforced (default) or not",
    )
    group.add_argument(
        "--ref",
        dest="refs",
        action="append",
        metavar="URI=FILE",
        help="a document for $ref: none is fetched; may be repeated",
    )


def json_schema(group: Group) -> None:
    group.add_argument(
        "--schema",
        metavar="SCHEMA",
        help="a file, JSON text, module:name (a Pydantic model, dataclass, TypedDict, dict), or the short form below",
    )
    json_options(group)


def sql_database(group: Group) -> None:
    group.add_argument(
        "--db",
        metavar="FILE_OR_URL",
        help="a SQLite file, or an SQLAlchemy URL such as postgresql+psycopg://user@host/name",
    )
    group.add_argument(
        "--sample-values", type=int, default=0, metavar="K", help="show the model K values of each column (default 0)"
    )
    group.add_argument(
        "--show-prompt", action="store_true", help="print the prompt on stderr: the tables and the question"
    )


def sql_execution(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("rows")
    group.add_argument(
        "--execute",
        action="store_true",
        help="run the query, read only and in a process of its own, and print its rows",
    )
    form = group.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="rows as CSV instead of a table; --json: one array of objects")
    form.add_argument("--jsonl", action="store_true", help="rows as an object a line")
    group.add_argument("--max-rows", type=int, metavar="N", help="no more rows than that (default 1000)")
    group.add_argument("--query-timeout", type=float, metavar="SECONDS", help="stop the query after that (default 10)")


def regex(group: Group) -> None:
    group.add_argument("--pattern", help="the expression; it has to match the whole text")


def lark(group: Group) -> None:
    group.add_argument("--lark", metavar="FILE", help="a file with the grammar; its start rule is `start`")


def choice(group: Group) -> None:
    either = group.add_mutually_exclusive_group()
    either.add_argument("--options", nargs="+", metavar="TEXT", help="the texts to choose from")
    either.add_argument("--names", metavar="FILE", help="a file with a text a line")


def smiles_options(group: Group) -> None:
    group.add_argument("--min-atoms", type=int, metavar="N", help="atoms other than hydrogen, at least (default 1)")
    group.add_argument("--max-atoms", type=int, metavar="N", help="atoms other than hydrogen, at most")
    group.add_argument("--elements", nargs="+", metavar="SYMBOL", help="the elements that may occur, such as C N O")
    group.add_argument("--required", nargs="+", metavar="SMARTS", help="patterns that the molecule must contain")
    group.add_argument("--forbidden", nargs="+", metavar="SMARTS", help="patterns that it must not contain")
    group.add_argument("--connected", action="store_true", help="one molecule: no dots")


def pddl_options(group: Group) -> None:
    group.add_argument("--domain", metavar="FILE", help="the planning domain")
    group.add_argument(
        "--write",
        choices=("goal", "formula"),
        default="goal",
        help="the section (:goal ...) (default), or what stands in it",
    )
    group.add_argument(
        "--consistent", action="store_true", help="only facts that can be reached, together, from the initial state"
    )


def pddl(group: Group) -> None:
    group.add_argument("--problem", metavar="FILE", help="the problem: its objects, not its goal")
    pddl_options(group)


def predicate_options(group: Group) -> None:
    group.add_argument("--call-timeout", type=float, metavar="SECONDS", help="longest a call may take (default 1)")
    group.add_argument("--batched", action="store_true", help="fn(texts, complete) -> a list of bools")
    group.add_argument(
        "--processes", type=int, metavar="N", help="run it in N processes of its own, which can be killed (default 0)"
    )


def predicate(group: Group) -> None:
    group.add_argument(
        "--function",
        metavar="MODULE:NAME",
        help="fn(text, complete) -> bool, fn(text) -> bool for finished texts, or an object of states; module or file.py",
    )
    predicate_options(group)


def any_constraint(group: Group) -> None:
    group.add_argument(
        "--constraint",
        metavar="SPEC",
        help='JSON text or a file with an object such as {"regex": "a+"}, or module:name; none: the model as it is',
    )


def combining_options(group: Group) -> None:
    group.add_argument(
        "--and",
        dest="also",
        action="append",
        metavar="SPEC",
        help='a further constraint: a spec such as \'{"regex": "[^<]*"}\', a file with one, or module:name; may be repeated',
    )
    group.add_argument(
        "--after", metavar="MARKER", help="think first: any text up to the marker, and the constraint after it"
    )
    group.add_argument(
        "--max-before", type=int, metavar="N", help="with --after: at most N characters before the marker"
    )


def generating_options(command: argparse.ArgumentParser) -> None:
    """What every command that generates takes."""
    group = command.add_argument_group("sampling")
    group.add_argument("--particles", type=int, default=8, metavar="N", help="draws run side by side (default 8)")
    group.add_argument("--seed", type=int, metavar="N", help="fixes every draw; without it one is chosen and reported")
    group.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="longest text, its end included (default 128)"
    )
    group.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of the model's own law (default 1)")
    group.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="X",
        help="cut the model's law to its likeliest tokens (default 1: all)",
    )
    group.add_argument(
        "--sampler",
        default="auto",
        metavar="NAME",
        help=f"{', '.join(SAMPLERS)} (token masking without weights), or JSON with name and options (default auto)",
    )
    group.add_argument(
        "--ess-threshold", type=float, default=0.5, metavar="X", help="resample below X·N (default 0.5; 0: never)"
    )
    group.add_argument("--resampling", choices=RESAMPLING, default="systematic", help="how (default systematic)")
    group.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="give up so long after the model is ready; in a batch, each line so long after its turn came",
    )

    group = command.add_argument_group("steering")
    group.add_argument(
        "--detox",
        action="store_true",
        help="text that is not toxic: p(not toxic | text) becomes a factor of the target",
    )
    group.add_argument("--detox-strength", type=float, metavar="X", help="0 (off) to 10; --detox alone is 1")
    group.add_argument(
        "--debias",
        action="append",
        metavar="AXIS",
        help="groups of people are named alike: gender, race, religion, or JSON such as "
        '\'{"name": "age", "groups": {"young": ["boy"], "old": ["man"]}}\'; may be repeated',
    )
    group.add_argument(
        "--adaptation",
        metavar="JSON",
        help="settings of the two: signal, budget (nats a text), gate, balance_gate, method (tilt, offset, both), candidates, "
        "debias_strength, balance (token; population: the texts name the groups alike, by weight)",
    )

    group = command.add_argument_group("model")
    group.add_argument("--model", help="a hub name or a path; without it the embedded SmolLM2-135M-Instruct")
    group.add_argument(
        "--url",
        help="ask a server started by reweigh serve, such as http://127.0.0.1:8000, instead of loading a model; --model is one "
        "of its models, and the key is in the environment, REWEIGH_API_KEY",
    )
    group.add_argument(
        "--named",
        metavar="NAME",
        help="with --url: the constraint is the one that the server's operator has set up under this name, as is needed for a "
        "database, a function or a long list of names",
    )
    group.add_argument(
        "--engine-arg",
        dest="engine_args",
        action="append",
        metavar="KEY=VALUE",
        help="an engine argument of vLLM, such as max_model_len=4096 (the value as JSON, or text); may be repeated",
    )
    group.add_argument("--system", metavar="TEXT", help="a system message")
    group.add_argument("--raw", action="store_true", help="the prompt as it is, without the model's chat template")

    group = command.add_argument_group("output")
    group.add_argument(
        "--n", type=int, default=1, metavar="N", help="print the N likeliest texts, a line each (default 1)"
    )
    group.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object, its keys are below")
    group.add_argument(
        "--explain",
        action="store_true",
        help="show on stderr what was proposed at each token, what was refused and by whom, and where the mass went",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="no summary and no progress on stderr")

    group = command.add_argument_group("batch")
    group.add_argument("--input", metavar="FILE", help="JSON lines with an id and a prompt each; - is stdin")
    group.add_argument(
        "--output", metavar="FILE", help="where the results go, a line each; ids that are there are skipped"
    )
    group.add_argument("--retry-failed", action="store_true", help="ids that failed in an earlier run are tried again")
