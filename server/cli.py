"""The command line: the result alone on stdout, everything else on stderr.

Exit codes: 0 ok, 1 failure, 2 usage, 3 nothing satisfied the constraint, 4 constraint invalid or unsupported,
124 deadline, 130 interrupted. Nothing heavy is imported before a command needs it: `--help` is instant.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grammars.errors import DeadEnd, GrammarError, ReweighError, Unsatisfiable

USAGE, NOTHING, INVALID, DEADLINE, INTERRUPTED = 2, 3, 4, 124, 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="reweigh",
        description="Sample from p(x)·1[x in C] with a language model: valid, weighted and undistorted.",
        epilog="exit codes: 0 ok, 1 failure, 2 usage, 3 nothing satisfied the constraint, 4 constraint invalid, "
        "124 deadline, 130 interrupted",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    one = commands.add_parser(
        "json", help="text that a JSON Schema accepts", description="Text that a JSON Schema accepts."
    )
    one.add_argument("--schema", required=True, metavar="FILE_OR_JSON", help="a file with the schema, or its JSON text")
    _common(one, lambda a: {"json_schema": _json_or_file(a.schema)})

    one = commands.add_parser(
        "regex",
        help="text that a regular expression matches",
        description="Text that a regular expression matches, whole.",
    )
    one.add_argument("--pattern", required=True, help="the expression; it has to match the whole text")
    _common(one, lambda a: {"regex": a.pattern})

    one = commands.add_parser(
        "grammar", help="text of a Lark grammar", description="Text of a context-free grammar in Lark's notation."
    )
    one.add_argument("--lark", required=True, metavar="FILE", help="a file with the grammar; its start rule is `start`")
    _common(one, lambda a: {"lark": _read(a.lark)})

    one = commands.add_parser(
        "choice", help="one of several texts", description="One of several texts, with the probability of each."
    )
    one.add_argument("--options", required=True, nargs="+", metavar="TEXT", help="the texts to choose from")
    _common(one, lambda a: {"choice": a.options})

    one = commands.add_parser("demo", help="fill a JSON schema with the embedded model and show the posterior")
    one.add_argument("--particles", type=int, default=8, metavar="N")
    one.add_argument("--seed", type=int, default=7)
    one.set_defaults(run=_demo)

    one = commands.add_parser(
        "bench", help="run the benchmarks of a checkout", description="Run benchmarks from bench/ of a checkout."
    )
    one.add_argument("names", nargs="*", help="which ones; all of them without a name")
    one.set_defaults(run=_bench)

    one = commands.add_parser("serve", help="an OpenAI-compatible server (not built yet)")
    one.set_defaults(run=_serve)
    return top


def _common(command: argparse.ArgumentParser, constraint: Callable[[argparse.Namespace], dict[str, Any]]) -> None:
    """What every generating command takes."""
    command.add_argument("prompt", nargs="?", default="-", help="the prompt; - or nothing reads it from stdin")
    command.add_argument("--particles", type=int, default=8, metavar="N", help="draws run side by side (default 8)")
    command.add_argument("--seed", type=int, help="fixes every draw; without it one is chosen and reported")
    command.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="longest text, its end included (default 128)"
    )
    command.add_argument("--temperature", type=float, default=1.0, help="of the model's own distribution (default 1)")
    command.add_argument(
        "--sampler", default="auto", help="auto, masked, awrs, look_ahead, geometric, top_k or lcd (default auto)"
    )
    command.add_argument(
        "--ess-threshold", type=float, default=0.5, metavar="X", help="resample below X·N (default 0.5; 0: never)"
    )
    command.add_argument(
        "--n", type=int, default=1, metavar="N", help="print the N likeliest texts, a line each (default 1)"
    )
    command.add_argument(
        "--json",
        action="store_true",
        dest="as_json",
        help="print one JSON object with texts, weights, log_z, ess, usage",
    )
    command.add_argument(
        "--raw", action="store_true", help="give the prompt as it is, without the model's chat template"
    )
    command.add_argument("--model", help="a hub name or a path; without it the embedded SmolLM2-135M-Instruct")
    command.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after so long")
    command.set_defaults(run=_generate, constraint=constraint)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except TimeoutError as error:
        return _fail(error, DEADLINE)
    except KeyboardInterrupt:
        print("reweigh: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (DeadEnd, Unsatisfiable) as error:
        return _fail(error, NOTHING)
    except GrammarError as error:
        return _fail(error, INVALID)
    except (_UsageError, ReweighError) as error:
        from grammars.errors import RequestError

        return _fail(error, USAGE if isinstance(error, _UsageError | RequestError) else 1)


class _UsageError(Exception):
    """A command line that names something that is not there."""


def _fail(error: BaseException, code: int) -> int:
    print(f"reweigh: {type(error).__name__.lstrip('_')}: {error}", file=sys.stderr)
    return code


def _generate(options: argparse.Namespace) -> int:
    constraint = options.constraint(options)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if not prompt.strip():
        raise _UsageError("the prompt is empty: give it as an argument or on stdin")
    if options.n < 1:
        raise _UsageError(f"--n {options.n}: at least 1 was wanted")
    if options.particles < 1:
        raise _UsageError(f"particles={options.particles}: at least 1 was wanted")
    from grammars.registry import language_from_arguments

    language_from_arguments(**constraint)  # a malformed one is named before a model is loaded
    from decoding.engine import Engine

    asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    with Engine(options.model, **_room_for(options.particles)) as engine:
        if options.raw or not getattr(engine.tokenizer, "chat_template", None):
            asked = {"prompts": prompt}
        result = engine.generate(
            **asked,
            **constraint,
            particles=options.particles,
            seed=options.seed,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            sampler=options.sampler,
            ess_threshold=options.ess_threshold,
            timeout_s=options.timeout,
        )
    if options.as_json:
        print(json.dumps(result.as_dict(), ensure_ascii=False, allow_nan=False))
    else:
        for text, _ in result.n_best(options.n):
            print(text)
        print(_summary(result), file=sys.stderr)
    return 0


def _room_for(particles: int) -> dict[str, Any]:
    """An engine argument for more particles than the default batch holds."""
    return {"max_num_seqs": particles} if particles > 64 else {}


def _summary(result: Any) -> str:
    stats = result.stats
    return (
        f"log_z {result.log_z:.3f} · ess {result.ess:.2f} of {len(result.texts)} · {result.usage.sampled_tokens} tokens sampled · "
        f"{stats.checks_per_token:.2f} checks and {stats.masks_per_token:.2f} masks a token · {stats.wall_s:.2f} s · "
        f"seed {result.seed}"
    )


DEMO_SCHEMA = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["cat", "dog", "horse", "parrot", "goldfish"]},
        "legs": {"enum": [0, 2, 4]},
        "indoors": {"type": "boolean"},
    },
    "required": ["animal", "legs", "indoors"],
    "additionalProperties": False,
}
DEMO_PROMPT = (
    'A popular pet, described in JSON, for example {"animal": "cat", "legs": 4, "indoors": true}. Another one: '
)


def _demo(options: argparse.Namespace) -> int:
    from decoding.engine import Engine

    print(f"prompt  {DEMO_PROMPT}\nschema  {json.dumps(DEMO_SCHEMA)}\n")
    with Engine(**_room_for(options.particles)) as engine:
        for sampler, what in (("lcd", "token masking alone, as others do it"), ("auto", "weighted: SMC inside vLLM")):
            result = engine.generate(
                DEMO_PROMPT,
                json_schema=DEMO_SCHEMA,
                particles=options.particles,
                sampler=sampler,
                ess_threshold=0.0 if sampler == "lcd" else 0.5,
                seed=options.seed,
                max_tokens=48,
            )
            print(f"{what} ({options.particles} particles)")
            for text, probability in result.posterior().items():
                print(f"  {probability:6.1%}  {text}")
            if sampler != "lcd":
                print("\n  particle  log weight  text")
                for k, (weight, text) in enumerate(zip(result.log_weights, result.texts, strict=True)):
                    print(f"  {k:8d}  {weight:10.3f}  {text}")
                print(f"\n  best as a Python value: {result.parsed}")
            print(f"  {_summary(result)}\n")
    return 0


def _serve(options: argparse.Namespace) -> int:
    raise ReweighError(
        "there is no server yet: use decoding.Engine in Python, or the commands json, regex, grammar and choice"
    )


def _bench(options: argparse.Namespace) -> int:
    import subprocess

    folder = Path(__file__).resolve().parent.parent / "bench"
    there = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    if not there:
        raise _UsageError("there is no bench/ folder beside the package: benchmarks need a checkout of the repository")
    unknown = [name for name in options.names if name not in there]
    if unknown:
        raise _UsageError(f"no benchmark {unknown[0]!r}; there are {', '.join(there)}")
    for name in options.names or there:
        print(f"== {name}", file=sys.stderr)
        code = subprocess.run(
            [sys.executable, "-m", f"bench.{there[name].stem}"], cwd=folder.parent, check=False
        ).returncode
        if code:
            return code
    return 0


def _json_or_file(given: str) -> Any:
    text = given if given.lstrip().startswith(("{", "[", '"', "true", "false", "null")) else _read(given)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise GrammarError(f"--schema is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise _UsageError(f"{path}: {error.strerror}; give a file that can be read") from error
    except UnicodeDecodeError as error:
        raise _UsageError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


if __name__ == "__main__":
    sys.exit(main())
