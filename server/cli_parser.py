"""The commands and their help texts."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from server import (
    cli_bench,
    cli_calibrate,
    cli_check,
    cli_completion,
    cli_demo,
    cli_generate,
    cli_options,
    cli_serve,
    cli_sql,
)
from server.cli_errors import EXIT_CODES, UsageError
from server.cli_help import BATCH, ENVELOPE, PROMPT
from server.cli_short_schema import SHORT_FORM


class Parser(argparse.ArgumentParser):
    """Mistakes are UsageErrors, which `main` reports like all others."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class _Version(argparse.Action):
    """The installed distribution's version, looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"reweigh {version('reweigh')}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="reweigh",
        description="Sample from p(x)·1[x in C] with a language model: valid, weighted and undistorted.",
        epilog=f"{EXIT_CODES}\n\nThe result alone goes to stdout. reweigh COMMAND --help shows examples.",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print reweigh's version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, summary, own, examples in GENERATING:
        _generating(commands, name, summary, own, examples)
    _check(commands)

    one = commands.add_parser(
        "demo",
        help="fill a JSON schema with the embedded model and show the posterior",
        description="Fill a JSON schema with the embedded model, with token masking alone and with weights.",
    )
    one.add_argument("--particles", type=int, default=8, metavar="N", help="draws run side by side (default 8)")
    one.add_argument("--seed", type=int, default=7, metavar="N", help="fixes every draw (default 7)")
    one.set_defaults(run=cli_demo.run, model=None, url=None, engine_args=None, quiet=False)

    one = commands.add_parser(
        "bench", help="run the benchmarks of a checkout", description=cli_bench.ABOUT, epilog=cli_bench.MORE
    )
    cli_bench.add_options(one)
    one.set_defaults(run=cli_bench.run, bench_arguments=[])

    one = commands.add_parser(
        "calibrate",
        help="how many samples, at which selection temperature: from a pool of judged candidates",
        description=cli_calibrate.ABOUT,
        epilog=cli_calibrate.MORE,
    )
    cli_calibrate.add_options(one)
    one.set_defaults(run=cli_calibrate.run)

    one = commands.add_parser(
        "serve", help="an OpenAI-compatible server", description=cli_serve.ABOUT, epilog=cli_serve.MORE
    )
    cli_serve.add_options(one)
    one.set_defaults(run=cli_serve.run)

    one = commands.add_parser(
        "completion",
        help="a script that completes reweigh's options in your shell",
        description="Print a completion script for a shell.",
        epilog="""\
bash:  reweigh completion bash > ~/.local/share/bash-completion/completions/reweigh
zsh:   reweigh completion zsh > ~/.zfunc/_reweigh         (a folder of $fpath, before compinit)
fish:  reweigh completion fish > ~/.config/fish/completions/reweigh.fish""",
    )
    one.add_argument("shell", choices=cli_completion.SHELLS)
    one.set_defaults(run=cli_completion.run, top=top)
    return top


def _generating(
    commands: Any, name: str, summary: str, own: Callable[[cli_options.Group], None], examples: str
) -> None:
    """A command that generates: its own options first, then what all such commands take."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"{examples}\n\n{PROMPT}\n\n{ENVELOPE}\n\n{BATCH}",
    )
    command.add_argument("prompt", nargs="?", help="the prompt; - or nothing reads it from stdin")
    group = command.add_argument_group("constraint")
    own(group)
    cli_options.combining_options(group)
    cli_options.generating_options(command)
    if name == "sql":
        cli_options.sql_execution(command)
    command.set_defaults(run=cli_sql.run if name == "sql" else cli_generate.run, kind=KINDS.get(name, name))


def _check(commands: Any) -> None:
    one = commands.add_parser(
        "check",
        help="what a constraint enforces and how, and whether it accepts a text",
        description="What a constraint enforces and how; with --text, whether it accepts a text and if not, where.",
        epilog="""\
examples:
  reweigh check --schema customer.json
  reweigh check --schema customer.json --text answer.json
  reweigh check --regex '[0-9]+' --text 12a

Of a schema every keyword is listed with its place and what enforces it: the mask; a predicate, as early as it can
tell; a test when its value is complete; or nothing, because it is an annotation. Milliseconds are of compiling for a
vocabulary of single bytes. A text that is not accepted gives exit code 3.""",
    )
    group = one.add_argument_group("constraint, one of")
    kind = group.add_mutually_exclusive_group(required=True)
    kind.add_argument("--schema", metavar="SCHEMA", help="as in reweigh json")
    kind.add_argument("--db", metavar="FILE_OR_URL", help="queries of a database, as in reweigh sql")
    kind.add_argument("--regex", dest="pattern", metavar="PATTERN", help="as in reweigh regex")
    kind.add_argument("--lark", metavar="FILE", help="as in reweigh grammar")
    kind.add_argument("--options", nargs="+", metavar="TEXT", help="as in reweigh choice")
    kind.add_argument("--names", metavar="FILE", help="as in reweigh choice")
    kind.add_argument("--smiles", action="store_true", help="molecules, as in reweigh smiles")
    kind.add_argument("--problem", metavar="FILE", help="goals of a planning problem, as in reweigh pddl")
    kind.add_argument("--function", metavar="MODULE:NAME", help="as in reweigh predicate")
    kind.add_argument("--constraint", metavar="SPEC", help="any constraint, as in reweigh text")
    one.add_argument(
        "--text",
        metavar="FILE_OR_TEXT",
        help="a text to judge, or a file with one (its last line end does not count); - is stdin",
    )
    one.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    cli_options.json_options(one.add_argument_group("with --schema"))
    cli_options.smiles_options(one.add_argument_group("with --smiles"))
    cli_options.pddl_options(one.add_argument_group("with --problem"))
    cli_options.predicate_options(one.add_argument_group("with --function"))
    one.set_defaults(run=cli_check.run)


# `generate` is what others call it.
KINDS = {"generate": "text"}
GENERATING: tuple[tuple[str, str, Callable[[cli_options.Group], None], str], ...] = (
    (
        "json",
        "text that a JSON Schema accepts",
        cli_options.json_schema,
        f"""\
examples:
  reweigh json 'A customer.' --schema customer.json
  reweigh json 'A dog, as data.' --schema 'name, age int, tricks list[str]' --json | jq .parsed
  cat mail.txt | reweigh json 'The sender.' --schema shop.models:Customer --particles 16
  reweigh json --schema s.json --input in.jsonl --output out.jsonl

{SHORT_FORM}""",
    ),
    (
        "sql",
        "a query of a database that answers a question",
        cli_options.sql_database,
        """\
examples:
  reweigh sql 'How many singers are older than 30?' --db concerts.sqlite
  reweigh sql 'Singers by age' --db concerts.sqlite --execute --csv > singers.csv
  reweigh sql 'The oldest customer' --db postgresql+psycopg://me@db/shop --sample-values 3 --particles 16

The model is shown the tables. Only SELECT is written, with names that are in scope, and the database has accepted it
(EXPLAIN).""",
    ),
    (
        "regex",
        "text that a regular expression matches",
        cli_options.regex,
        """\
examples:
  reweigh regex 'When was the moon landing?' --pattern '[12][0-9]{3}-[01][0-9]-[0-3][0-9]' --n 3
  reweigh regex 'A word twice:' --raw --pattern '([a-z]+) \\1'

Python's re, and what PyPI's regex module adds (recursion, \\p{...}, look-behind of any width).""",
    ),
    (
        "grammar",
        "text of a Lark grammar",
        cli_options.lark,
        "example:\n  reweigh grammar 'A sum.' --lark sums.lark --max-tokens 64",
    ),
    (
        "choice",
        "one of several texts, from a handful to a million",
        cli_options.choice,
        """\
examples:
  reweigh choice 'Is water wet?' --options yes no --json | jq .posterior
  reweigh choice 'The capital of France:' --names cities.txt --n 3

Put the prompt before --options: what follows it is taken for options.""",
    ),
    (
        "smiles",
        "a molecule",
        cli_options.smiles_options,
        """\
examples:
  reweigh smiles 'A small alcohol:' --max-atoms 8 --connected --required '[OX2H]'
  reweigh smiles 'An aromatic molecule:' --elements C N O --n 3

Put the prompt before --elements, --required and --forbidden: what follows them is taken for theirs.""",
    ),
    (
        "pddl",
        "the goal of a planning problem",
        cli_options.pddl,
        """\
example:
  reweigh pddl 'Put b1 on b2.' --domain blocks.pddl --problem tower.pddl --consistent""",
    ),
    (
        "predicate",
        "text that your own Python function accepts",
        cli_options.predicate,
        """\
examples:
  reweigh predicate 'A palindrome:' --function tests.py:palindrome
  reweigh predicate 'A lucky number:' --function rules:even --and '{"regex": "[0-9]{1,4}"}'

def even(text, complete):          # complete=False: may this still become a member? True: is it one?
    return text.isdigit() and int(text) % 2 == 0 if complete else text == "" or text.isdigit()""",
    ),
    (
        "text",
        "text under any constraint, given as a spec, or under none",
        cli_options.any_constraint,
        """\
examples:
  reweigh text 'Tell me a joke.' --max-tokens 60
  reweigh text 'A year:' --constraint '{"any": [{"regex": "[0-9]{4}"}, {"choice": ["unknown"]}]}'
  reweigh text 'A year:' --constraint rules.json""",
    ),
    (
        "generate",
        "text, as reweigh text",
        cli_options.any_constraint,
        """\
examples:
  reweigh generate 'Tell me a joke.' --max-tokens 60
  reweigh generate 'Tell me about the nurse.' --detox --debias gender --particles 1 --explain""",
    ),
)
