"""What does a constraint cost on the host? Microseconds per check and per mask, milliseconds to compile, beside the peers.

Every family of constraints on the shared data: a spec is compiled, then texts that belong to it are walked token by token. At
each place of a walk the next token is tested (a check), the mask is computed, and the state goes on. Peers see the same specs
and texts; each engine runs in a process of its own, and a spec that takes it longer than --timeout-s ends that process.
"flat" compares the checks of the last quarter of long texts with those of the first: 1 is a cost that does not grow with the text.

    python -m bench.bench_grammars                     all families and engines
    python -m bench.bench_grammars json --specs 100
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from bench.harness import DATA, ROOT, report, say

LONGEST = 400  # tokens of a walk
LONG = 80  # a text of as many tokens tells whether the cost grows


@dataclass(frozen=True)
class Case:
    """One constraint and texts that belong to it."""

    name: str
    spec: dict[str, Any]
    texts: tuple[str, ...]


# The data


def json_cases() -> Iterator[Case]:
    for line in (DATA / "json" / "schemas.jsonl").open(encoding="utf-8"):
        record = json.loads(line)
        texts = tuple(json.dumps(test["data"], ensure_ascii=False) for test in record["tests"] if test["valid"])
        # Members stand in any order in the data.
        yield Case(record["id"], {"json_schema": record["schema"], "order": "any"}, texts)


def pattern_cases(regular: bool) -> Iterator[Case]:
    """Patterns that `re` compiles come with texts that hypothesis makes; the others with none: they are compiled only."""
    for line in (DATA / "regex" / "patterns.jsonl").open(encoding="utf-8"):
        record = json.loads(line)
        if record["re"] == regular:
            texts = tuple(matching(record["pattern"])) if regular else ()
            yield Case(record["id"], {"regex": record["pattern"]}, texts)


def matching(pattern: str, count: int = 3) -> list[str]:
    import warnings

    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st
    from hypothesis.errors import Unsatisfiable

    found: list[str] = []

    @seed(1)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.from_regex(pattern, fullmatch=True))
    def collect(text: str) -> None:
        found.append(text)

    with warnings.catch_warnings(), suppress(Unsatisfiable):  # some patterns match nothing
        warnings.simplefilter("ignore")
        collect()
    return [text for text in found if text.isprintable()]


def sql_cases() -> Iterator[Case]:
    queries: dict[str, list[str]] = {}
    for line in (DATA / "sql" / "questions.jsonl").open(encoding="utf-8"):
        record = json.loads(line)
        queries.setdefault(record["db_id"], []).append(record["query"])
    for name, texts in queries.items():
        (path,) = (DATA / "sql" / "database" / name).glob("*.sqlite")
        yield Case(name, {"sql": str(path)}, tuple(texts))


def choice_cases() -> Iterator[Case]:
    random = Random(1)
    words = [
        "River",
        "North",
        "Saint",
        "New",
        "Lake",
        "Upper",
        "Stone",
        "Green",
        "Port",
        "Mount",
        "East",
        "Bay",
        "Hill",
    ]
    for size in (10, 1_000, 100_000):
        names = sorted({f"{random.choice(words)} {random.choice(words)} {k}" for k in range(size)})
        yield Case(f"{size} names", {"choice": names}, tuple(random.sample(names, min(10, size))))


def smiles_cases() -> Iterator[Case]:
    lines = (DATA / "smiles" / "smiles.csv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("smiles")
    texts = [line.split(",")[column] for line in lines[1:]]
    yield Case("molecules", {"smiles": {}}, tuple(texts[:: len(texts) // 40]))


def lark_cases() -> Iterator[Case]:
    arithmetic = 'start: sum\nsum: product (("+" | "-") product)*\nproduct: atom (("*" | "/") atom)*\n'
    arithmetic += 'atom: /[0-9]+/ | "(" sum ")"'
    random = Random(2)

    def expression(depth: int) -> str:
        if depth == 0:
            return str(random.randrange(1000))
        one, two = expression(depth - 1), expression(depth - 1)
        return f"({one}{random.choice('+-*/')}{two})"

    yield Case("arithmetic", {"lark": arithmetic}, tuple(expression(depth) for depth in (1, 3, 5, 6)))


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    "json": json_cases,
    "regex": lambda: pattern_cases(True),
    "pattern": lambda: pattern_cases(False),
    "lark": lark_cases,
    "choice": choice_cases,
    "sql": sql_cases,
    "smiles": smiles_cases,
}


# The engines: compile(spec) -> start(), where the walk has check(token) -> bool, mask(), advance(token)


class Ours:
    families = tuple(FAMILIES)

    def __init__(self, vocabulary: Any) -> None:
        self.vocabulary = vocabulary

    def compile(self, spec: dict[str, Any]) -> Callable[[], Any]:
        from grammars.registry import language_from_spec

        constraint = language_from_spec(spec).compile(self.vocabulary)
        constraint.start().bitmask()
        return lambda: OursWalk(constraint.start())


class OursWalk:
    def __init__(self, state: Any) -> None:
        self.state = state

    def check(self, token: int) -> bool:
        return bool(self.state.accepts(np.array([token]))[0])

    def mask(self) -> None:
        self.state.bitmask()

    def advance(self, token: int) -> None:
        self.state = self.state.advance(token)


class Llguidance:
    families = ("json", "regex", "lark")

    def __init__(self, vocabulary: Any) -> None:
        from grammars.llguidance_engine import parse_guided

        parse_guided('start: "a"', vocabulary)
        from grammars import llguidance_engine

        self.tokenizer = llguidance_engine._tokenizer(vocabulary)

    def compile(self, spec: dict[str, Any]) -> Callable[[], Any]:
        from llguidance import LLMatcher

        if "json_schema" in spec:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(spec["json_schema"]))
        elif "regex" in spec:
            grammar = LLMatcher.grammar_from_regex(spec["regex"])
        else:
            grammar = LLMatcher.grammar_from_lark(spec["lark"])
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        matcher.deep_copy().compute_bitmask()
        return lambda: LlguidanceWalk(matcher.deep_copy())


class LlguidanceWalk:
    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher

    def check(self, token: int) -> bool:
        return bool(self.matcher.validate_tokens([token]) == 1)

    def mask(self) -> None:
        self.matcher.compute_bitmask()

    def advance(self, token: int) -> None:
        self.matcher.consume_token(token)


class Xgrammar:
    families = ("json", "regex")

    def __init__(self, vocabulary: Any) -> None:
        import xgrammar

        words = [vocabulary.bytes_of(t) for t in range(vocabulary.size)]
        info = xgrammar.TokenizerInfo(words, vocab_size=vocabulary.size, stop_token_ids=[vocabulary.eos])
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self.bitmask = xgrammar.allocate_token_bitmask(1, vocabulary.size)

    def compile(self, spec: dict[str, Any]) -> Callable[[], Any]:
        import xgrammar

        if "regex" in spec:
            compiled = self.compiler.compile_regex(spec["regex"])
        else:
            compiled = self.compiler.compile_json_schema(json.dumps(spec["json_schema"]), strict_mode=False)
        xgrammar.GrammarMatcher(compiled).fill_next_token_bitmask(self.bitmask)
        return lambda: XgrammarWalk(xgrammar.GrammarMatcher(compiled), self.bitmask)


class XgrammarWalk:
    def __init__(self, matcher: Any, bitmask: Any) -> None:
        self.matcher = matcher
        self.bitmask = bitmask

    def check(self, token: int) -> bool:
        if not self.matcher.accept_token(token):
            return False
        self.matcher.rollback(1)
        return True

    def mask(self) -> None:
        self.matcher.fill_next_token_bitmask(self.bitmask)

    def advance(self, token: int) -> None:
        self.matcher.accept_token(token)


class OutlinesCore:
    families = ("json", "regex")

    def __init__(self, vocabulary: Any) -> None:
        from outlines_core import Vocabulary

        words: dict[bytes, list[int]] = {}
        for token in range(vocabulary.size):
            if vocabulary.bytes_of(token):
                words.setdefault(vocabulary.bytes_of(token), []).append(token)
        self.vocabulary = Vocabulary(vocabulary.eos, words)

    def compile(self, spec: dict[str, Any]) -> Callable[[], Any]:
        from outlines_core import Guide, Index
        from outlines_core.json_schema import build_regex_from_schema

        pattern = spec["regex"] if "regex" in spec else build_regex_from_schema(json.dumps(spec["json_schema"]))
        index = Index(pattern, self.vocabulary)
        return lambda: OutlinesWalk(Guide(index))


class OutlinesWalk:
    def __init__(self, guide: Any) -> None:
        self.guide = guide

    def check(self, token: int) -> bool:
        return bool(self.guide.accepts_tokens([token]))

    def mask(self) -> None:
        self.guide.get_tokens()

    def advance(self, token: int) -> None:
        self.guide.advance(token, return_tokens=False)


class LmFormatEnforcer:
    families = ("json", "regex")

    def __init__(self, vocabulary: Any) -> None:
        from lmformatenforcer import TokenEnforcerTokenizerData

        words = [(t, vocabulary.bytes_of(t).decode(errors="replace"), False) for t in range(vocabulary.size)]
        regular = [(token, text, text.startswith(" ")) for token, text, _ in words if text]
        self.data = TokenEnforcerTokenizerData(
            regular, lambda ids: vocabulary.decode(ids).decode(errors="replace"), vocabulary.eos, False, vocabulary.size
        )

    def compile(self, spec: dict[str, Any]) -> Callable[[], Any]:
        from lmformatenforcer import JsonSchemaParser, RegexParser, TokenEnforcer

        parser = RegexParser(spec["regex"]) if "regex" in spec else JsonSchemaParser(spec["json_schema"])
        TokenEnforcer(self.data, parser).get_allowed_tokens([])
        return lambda: LmfeWalk(TokenEnforcer(self.data, parser))


class LmfeWalk:
    """It has no test of a token but its mask, which it keeps for the text: so the check pays for it."""

    def __init__(self, enforcer: Any) -> None:
        self.enforcer = enforcer
        self.tokens: list[int] = []

    def check(self, token: int) -> bool:
        return bool(self.enforcer.get_allowed_tokens(self.tokens).is_token_allowed(token))

    def mask(self) -> None:
        self.enforcer.get_allowed_tokens(self.tokens)

    def advance(self, token: int) -> None:
        self.tokens.append(token)


ENGINES: dict[str, Any] = {
    "reweigh": Ours,
    "llguidance": Llguidance,
    "xgrammar": Xgrammar,
    "outlines-core": OutlinesCore,
    "lm-format-enforcer": LmFormatEnforcer,
}


# One engine's process


def serve(engine: str) -> None:
    """Answer a JSON line a case: {"spec", "texts" as token ids} -> times in microseconds."""
    from transformers import AutoTokenizer

    from decoding.embedded_model import embedded_model_path
    from grammars.vocabulary import vocabulary_from_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    vocabulary = vocabulary_from_tokenizer(tokenizer, len(tokenizer))
    side = ENGINES[engine](vocabulary)
    print("ready", flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        answer: dict[str, Any] = {"checks": [], "masks": [], "advances": [], "refused": 0, "ratios": []}
        start = time.perf_counter()
        try:
            begin = side.compile(case["spec"])
            answer["compile_ms"] = 1e3 * (time.perf_counter() - start)
            for text in case["texts"]:
                walk(begin(), tokenizer(text, add_special_tokens=False)["input_ids"][:LONGEST], answer)
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"[:200]
        print(json.dumps(answer), flush=True)


def walk(place: Any, tokens: Sequence[int], answer: dict[str, Any]) -> None:
    checks = []
    for token in tokens:
        start = time.perf_counter()
        accepted = place.check(token)
        checks.append(1e6 * (time.perf_counter() - start))
        if not accepted:
            answer["refused"] += 1
            break
        start = time.perf_counter()
        place.mask()
        answer["masks"].append(1e6 * (time.perf_counter() - start))
        start = time.perf_counter()
        place.advance(token)
        answer["advances"].append(1e6 * (time.perf_counter() - start))
    answer["checks"] += checks
    if len(checks) >= LONG:
        quarter = len(checks) // 4
        answer["ratios"].append(float(np.median(checks[-quarter:]) / np.median(checks[:quarter])))


class Side:
    """An engine's process, started again when a case takes too long or ends it."""

    def __init__(self, engine: str, timeout_s: float) -> None:
        self.engine = engine
        self.timeout_s = timeout_s
        self.process: subprocess.Popen[str] | None = None

    def run(self, case: Case) -> dict[str, Any]:
        process = self.process or self.start()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"spec": case.spec, "texts": case.texts}) + "\n")
        process.stdin.flush()
        line = self.line(self.timeout_s)
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        process.kill()
        died = process.wait() != -9 or line == ""
        self.process = None
        return {"error": "the process died" if died else f"no answer within {self.timeout_s:g} s"}

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.bench_grammars", "--serve", self.engine], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.line(120.0) is not None, f"{self.engine} did not start"
        return self.process

    def line(self, seconds: float) -> str | None:
        """The next line; "" at the end of the stream, None where there is none in time."""
        process = self.process
        assert process is not None and process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        return process.stdout.readline() if ready else None


def quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"p50": float(np.percentile(values, 50)), "p99": float(np.percentile(values, 99)), "max": float(max(values))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}; all if none is named")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--specs", type=int, default=60, help="of each family, spread over its data")
    parser.add_argument("--timeout-s", type=float, default=20.0, help="for one spec and its texts")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    results: dict[str, Any] = {}
    sides = {engine: Side(engine, options.timeout_s) for engine in options.engines}
    say(
        f"{'':30s}{'specs':>6s}{'errors':>7s}{'refused':>8s}  check us p50/p99    mask us p50/p99   compile ms p50/max  flat"
    )
    for family in options.families or FAMILIES:
        cases = list(FAMILIES[family]())
        cases = [cases[k] for k in np.unique(np.linspace(0, len(cases) - 1, options.specs).astype(int))]
        for engine, side in sides.items():
            if family not in ENGINES[engine].families:
                continue
            answers = [side.run(case) for case in cases]
            whole = [answer for answer in answers if "compile_ms" in answer]
            flat = [ratio for answer in whole for ratio in answer["ratios"]]
            found = {
                "specs": len(cases),
                "errors": sum("error" in answer for answer in answers),
                "texts_refused": sum(answer["refused"] for answer in whole),
                "check_us": quantiles([t for answer in whole for t in answer["checks"]]),
                "mask_us": quantiles([t for answer in whole for t in answer["masks"]]),
                "advance_us": quantiles([t for answer in whole for t in answer["advances"]]),
                "compile_ms": quantiles([answer["compile_ms"] for answer in whole]),
                "late_to_early_check": float(np.median(flat)) if flat else None,
                "messages": {case.name: a["error"] for case, a in zip(cases, answers, strict=True) if "error" in a},
            }
            results[f"{family} {engine}"] = found
            say(row(f"{family} {engine}", found))
    for side in sides.values():
        if side.process is not None:
            side.process.kill()
    report("grammars", {"specs": options.specs, "timeout_s": options.timeout_s}, results)


def row(name: str, found: dict[str, Any]) -> str:
    def pair(times: dict[str, float], second: str = "p99") -> str:
        return f"{times['p50']:8.1f} /{times[second]:9.1f}" if times else f"{'-':>19s}"

    flat = found["late_to_early_check"]
    return (
        f"{name:30s}{found['specs']:6d}{found['errors']:7d}{found['texts_refused']:8d}{pair(found['check_us'])}"
        f"{pair(found['mask_us'])}{pair(found['compile_ms'], 'max')}  {'-' if flat is None else f'{flat:.2f}'}"
    )


if __name__ == "__main__":
    main()
