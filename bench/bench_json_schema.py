"""Does the JSON Schema constraint judge as the standard says, how fast, and does a small model finish valid texts under it?

verdicts    the official test suite and MaskBench, instance by instance, token by token; times of checks and of compiling
generation  the embedded model over MaskBench's schemas with 1 and 8 particles; `jsonschema` judges every finished text
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import DATA, report, say
from grammars.errors import GrammarError, ReweighError, Unsatisfiable
from grammars.json_compilation import compile_json
from grammars.json_schema import JsonSchema
from grammars.vocabulary import Vocabulary

SUITE_URI = "http://localhost:1234/"

# Every JSON text that means the same is accepted: how an instance happens to be written is not what the suites ask about.
LOOSE = {"whitespace": "flexible", "order": "any", "spelling": "any"}
DEFAULT = {"whitespace": "flexible"}


@dataclass
class Tally:
    """Verdicts beside the right ones. Times in µs and ms."""

    right: int = 0
    wrongly_accepted: list[str] = field(default_factory=list)
    wrongly_refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    check_us: list[float] = field(default_factory=list)
    compile_ms: list[float] = field(default_factory=list)
    exact_masks: int = 0

    def judge(self, name: str, verdict: bool, valid: bool) -> None:
        if verdict == valid:
            self.right += 1
        else:
            (self.wrongly_accepted if verdict else self.wrongly_refused).append(name)

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "right": self.right,
            "wrongly_accepted": len(self.wrongly_accepted),
            "wrongly_refused": len(self.wrongly_refused),
            "compile_errors": len(self.errors),
            "compiled": len(self.compile_ms),
            "exact_masks": self.exact_masks,
            "compile_ms": percentiles(self.compile_ms),
        }
        if self.check_us:
            found["check_us"] = percentiles(self.check_us)
        return found


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[int(len(ordered) * 0.99)], 2),
        "max": round(ordered[-1], 2),
    }


@dataclass(frozen=True)
class Case:
    """A schema and the verdicts that others give on values."""

    name: str
    schema: Any
    instances: tuple[tuple[str, Any, bool], ...]
    options: dict[str, Any] = field(default_factory=dict)


def suite_registry(suite: Path) -> dict[str, Any]:
    """The suite's remote documents, by the URIs its schemas use."""
    remotes = suite / "remotes"
    return {
        SUITE_URI + path.relative_to(remotes).as_posix(): json.loads(path.read_text())
        for path in remotes.rglob("*.json")
    }


def suite_cases(suite: Path, folder: str = "") -> Iterator[Case]:
    """folder: "" for the required tests, "optional", "optional/format"."""
    options = {"registry": suite_registry(suite), "formats": "assert" if folder == "optional/format" else "annotate"}
    for path in sorted((suite / "tests" / "draft2020-12" / folder).glob("*.json")):
        for group in json.loads(path.read_text()):
            instances = tuple((test["description"], test["data"], test["valid"]) for test in group["tests"])
            yield Case(f"{path.stem}: {group['description']}", group["schema"], instances, options)


def maskbench_cases(folder: Path) -> Iterator[Case]:
    with (folder / "schemas.jsonl").open() as lines:
        for line in lines:
            row = json.loads(line)
            instances = tuple((str(k), test["data"], test["valid"]) for k, test in enumerate(row["tests"]))
            yield Case(row["id"], row["schema"], instances)


def judged(
    cases: Iterator[Case], vocabulary: Vocabulary, split: Any, options: dict[str, Any], seed: int | None = None
) -> Tally:
    """Compile every schema, write every instance.

    split  text -> the tokens it is written in
    seed   also time checks of 1 to 8 candidates, of which the first is the instance's next token; None times none
    """
    tally, rng = Tally(), random.Random(seed)
    for case in cases:
        try:
            compiled = compile_json(JsonSchema(case.schema, **{**case.options, **options}), vocabulary)
        except Unsatisfiable:
            # A verdict as well: every instance is invalid.
            for name, _, valid in case.instances:
                tally.judge(f"{case.name}: {name}", False, valid)
            continue
        except GrammarError as error:
            tally.errors.append(f"{case.name}: {error}")
            continue
        tally.compile_ms.append(compiled.compile_ms)
        tally.exact_masks += compiled.mask_is_exact
        for name, value, valid in case.instances:
            tokens = split(json.dumps(value, ensure_ascii=False))
            verdict = is_accepted(compiled.constraint, tokens, vocabulary, tally if seed is not None else None, rng)
            tally.judge(f"{case.name}: {name}", verdict, valid)
    return tally


def is_accepted(
    constraint: Any, tokens: list[int], vocabulary: Vocabulary, timed: Tally | None, rng: random.Random
) -> bool:
    state = constraint.start()
    for token in tokens:
        candidates = np.array(
            [token, *(rng.randrange(vocabulary.size) for _ in range(rng.randrange(8)))] if timed else [token]
        )
        begun = time.perf_counter()
        verdicts = state.accepts(candidates)
        if timed is not None:
            timed.check_us.append((time.perf_counter() - begun) * 1e6)
        if not verdicts[0]:
            return False
        state = state.advance(token)
    return bool(state.accepts(np.array([vocabulary.eos]))[0])


def verdicts(seed: int) -> None:
    from transformers import AutoTokenizer

    from decoding.embedded_model import embedded_model_path
    from grammars.vocabulary import vocabulary_from_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path(), local_files_only=True, model_max_length=10**9)
    vocabulary = vocabulary_from_tokenizer(tokenizer, len(tokenizer), (tokenizer.eos_token_id,))
    JsonSchema({}).compile(vocabulary).start()

    def split(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    suite, maskbench = DATA / "json-schema-test-suite", DATA / "json"
    arms: dict[str, Tally] = {
        "suite required": judged(suite_cases(suite), vocabulary, split, LOOSE),
        "suite optional": judged(suite_cases(suite, "optional"), vocabulary, split, LOOSE),
        "suite optional/format": judged(suite_cases(suite, "optional/format"), vocabulary, split, LOOSE),
        "suite required, plain spelling": judged(suite_cases(suite), vocabulary, split, {**LOOSE, "spelling": "plain"}),
        "suite required, default": judged(suite_cases(suite), vocabulary, split, DEFAULT),
        "maskbench": judged(maskbench_cases(maskbench), vocabulary, split, LOOSE, seed),
        "maskbench, plain spelling": judged(
            maskbench_cases(maskbench), vocabulary, split, {**LOOSE, "spelling": "plain"}, seed
        ),
        "maskbench, default": judged(maskbench_cases(maskbench), vocabulary, split, DEFAULT, seed),
    }
    for name, tally in arms.items():
        for kind, names in (
            ("accepted", tally.wrongly_accepted),
            ("refused", tally.wrongly_refused),
            ("error", tally.errors),
        ):
            for one in names:
                say(f"{name}: {kind}: {one}")
    settings = {"seed": seed, "loose": LOOSE, "default": DEFAULT, "candidates": "1 to 8"}
    report("json_schema verdicts", settings, {name: tally.summary() for name, tally in arms.items()})


def generation(schemas: int, max_tokens: int, seed: int, longest_schema: int) -> None:
    """Schemas are drawn at random among those that fit a prompt; one request each, all in flight together."""
    import jsonschema

    from decoding import Engine

    cases = [case for case in maskbench_cases(DATA / "json") if len(json.dumps(case.schema)) <= longest_schema]
    cases = random.Random(seed).sample(cases, min(schemas, len(cases)))
    results: dict[str, Any] = {}
    with Engine(max_num_seqs=64, max_model_len=longest_schema + max_tokens + 512) as engine:
        for particles in (1, 8):
            begun = time.perf_counter()
            outcomes = engine.generate(
                messages=[[{"role": "user", "content": prompt(case.schema)}] for case in cases],
                constraint=[JsonSchema(case.schema) for case in cases],
                particles=particles,
                max_tokens=max_tokens,
                seed=seed,
            )
            finished = valid = dead = 0
            errors: list[str] = []
            for case, outcome in zip(cases, outcomes, strict=True):
                if outcome.error is not None:
                    dead += 1
                    errors.append(f"{case.name}: {type(outcome.error).__name__}: {outcome.error}")
                    continue
                finished += 1
                texts = {
                    text for text, weight in zip(outcome.texts, outcome.log_weights, strict=True) if weight > -np.inf
                }
                validator = jsonschema.validators.validator_for(case.schema, default=jsonschema.Draft202012Validator)
                wrong = [
                    text
                    for text in texts
                    if not validator(case.schema, format_checker=jsonschema.FormatChecker()).is_valid(json.loads(text))
                ]
                valid += not wrong
                errors += [f"{case.name}: INVALID {text}" for text in wrong]
            for error in errors:
                say(f"particles={particles}: {error[:300]}")
            results[f"particles={particles}"] = {
                "requests": len(cases),
                "finished": finished,
                "valid": valid,
                "not finished": dead,
                "seconds": round(time.perf_counter() - begun, 1),
            }
    report("json_schema generation", {"schemas": schemas, "max_tokens": max_tokens, "seed": seed}, results)


def prompt(schema: Any) -> str:
    return f"Write a short JSON example for this JSON Schema. Answer with the JSON only.\n{json.dumps(schema)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("verdicts", "generation"), default="verdicts")
    parser.add_argument("--schemas", type=int, default=100, help="for generation: how many schemas are drawn")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument(
        "--longest-schema", type=int, default=3000, help="for generation: characters of a schema, at most"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.part == "verdicts":
        verdicts(options.seed)
    else:
        try:
            generation(options.schemas, options.max_tokens, options.seed, options.longest_schema)
        except ReweighError as error:
            raise SystemExit(f"generation: {error}") from error


if __name__ == "__main__":
    main()
