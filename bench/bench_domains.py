"""Does weighted sampling pay on the domains of the AWRS paper: patterns, molecules, goals of planning problems?

Arms on the same tasks with the same seeds: unconstrained, token masking alone (lcd), AWRS-SMC with 5 and 10 particles. A
number is the mean over tasks of its expectation under the task's posterior; a task whose particles all died counts zero.
valid       full matches of the pattern; molecules that RDKit reads; goals with declared predicates, arity and objects
quality     of patterns nothing more; of molecules QED; of goals whether the facts are the gold goal's
Beside it, without a model: microseconds a check and a mask along texts of the domain, with the real vocabulary.
Source: Lipkin et al. (2025), "Fast controlled generation from language models with adaptive weighted rejection sampling".
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np
import regex

from bench.harness import DATA, report, say
from bench.tasks import chat
from grammars.constraint import Constraint, ConstraintState, Language
from grammars.errors import PredicateError
from grammars.pddl import Pddl
from grammars.registry import language_from_spec
from grammars.smiles import Smiles, qed
from grammars.vocabulary import Vocabulary

ARMS: dict[str, dict[str, Any]] = {
    "unconstrained": {"particles": 5, "ess_threshold": 0.0, "truncate": True},
    "lcd": {"particles": 5, "sampler": "lcd", "ess_threshold": 0.0},
    "awrs-smc-5": {"particles": 5, "sampler": "awrs"},
    "awrs-smc-10": {"particles": 10, "sampler": "awrs"},
}
CANDIDATES = 8


@dataclass(frozen=True)
class Task:
    """texts: texts of the domain, for timing; quality is asked of valid texts only."""

    prompt: str
    language: Language
    valid: Callable[[str], bool]
    quality: Callable[[str], float]
    texts: tuple[str, ...] = ()


def patterns(count: int, random: Random) -> list[Task]:
    rows = [json.loads(line) for line in (DATA / "regex" / "patterns.jsonl").read_text().splitlines()]
    examples = [
        (r"^[A-Z]{2}\d{3}$", "QX417"),
        (r"(\w+) \1", "so so"),
        (r"^(?!.*a)[a-e]{3,5}$", "bdceb"),
        (r"\p{Lu}\d", "K7"),
    ]
    instruction = "Write one text that the regular expression matches in full. Answer with the text alone."
    tasks = []
    for row in random.sample(rows, min(count, len(rows))):
        tasks.append(
            Task(
                chat(instruction, examples, row["pattern"]),
                language_from_spec({"regex": row["pattern"]}),
                partial(_matches, regex.compile(row["pattern"])),
                lambda text: 1.0,
            )
        )
    return tasks


def molecules(count: int, random: Random) -> list[Task]:
    with (DATA / "smiles" / "smiles.csv").open() as lines:
        known = [row["smiles"] for row in csv.DictReader(lines) if row["source"].startswith("zinc")]
    tasks = []
    for _ in range(count):
        shown = random.sample(known, 10)
        prompt = chat("Write one drug-like molecule in SMILES.", [("molecule", text) for text in shown], "molecule")
        tasks.append(Task(prompt, Smiles(max_atoms=25), lambda text: qed(text) > 0, qed, tuple(shown)))
    return tasks


def goals(count: int, random: Random) -> list[Task]:
    folder = DATA / "planetarium"
    rows = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["num_objects"] <= 9]
    tasks = []
    for row in random.sample(rows, min(count, len(rows))):
        domain = (folder / f"{row['domain']}.pddl").read_text()
        language = Pddl(domain, row["problem_pddl"], consistent=True)
        others = sorted(
            (r for r in rows if r["domain"] == row["domain"] and r["id"] != row["id"]), key=lambda r: r["num_objects"]
        )
        examples = [(r["natural_language"], _goal(r)) for r in random.sample(others[:8], 2)]
        known = Pddl(domain, row["problem_pddl"]).compile(_BYTES)
        tasks.append(
            Task(
                chat("Write the goal of the planning problem in PDDL.", examples, row["natural_language"]),
                language,
                partial(_is_member, known),
                partial(_is_the_goal, language, language.parse(_goal(row))),
                (_goal(row),),
            )
        )
    return tasks


def _matches(compiled: regex.Pattern[str], text: str) -> bool:
    return compiled.fullmatch(text, timeout=10) is not None


def _is_the_goal(language: Pddl, gold: Any, text: str) -> float:
    return float(language.parse(text) == gold)


def _goal(row: dict[str, Any]) -> str:
    found = re.search(r"\(:goal.*\)\)\)", row["problem_pddl"], re.S)
    assert found is not None
    return found[0]


# Every byte a token: membership of a whole text, without a model.
_BYTES = Vocabulary((*(bytes([byte]) for byte in range(256)), b""), (256,), 257)


def _is_member(constraint: Constraint, text: str) -> bool:
    state = constraint.start()
    for byte in text.encode():
        if not state.accepts(np.array([byte]))[0]:
            return False
        state = state.advance(byte)
    return state.is_complete


def measure(
    engine: Any, tasks: list[Task], arm: str, options: dict[str, Any], max_tokens: int, seed: int
) -> dict[str, Any]:
    constrained = {} if arm == "unconstrained" else {"constraint": [task.language for task in tasks]}
    start = time.perf_counter()
    results = engine.generate(
        [task.prompt for task in tasks], max_tokens=max_tokens, seed=seed, progress=False, **constrained, **options
    )
    seconds = time.perf_counter() - start
    valid, quality = [], []
    texts: set[str] = set()
    errors: dict[str, int] = {}
    for task, result in zip(tasks, results, strict=True):
        posterior = {} if result.error is not None else result.posterior()
        if result.error is not None:
            errors[type(result.error).__name__] = errors.get(type(result.error).__name__, 0) + 1
        good = {text: mass for text, mass in posterior.items() if task.valid(text)}
        texts |= set(good)
        valid.append(sum(good.values()))
        quality.append(sum(mass * task.quality(text) for text, mass in good.items()))
    tokens = sum(result.stats.sampled_tokens for result in results)
    drawn = sum(len(result.texts) for result in results)
    return {
        "valid": float(np.mean(valid)),
        "quality": float(np.mean(quality)),
        "quality_of_valid": float(np.sum(quality) / max(np.sum(valid), 1e-9)),
        "distinct_valid": len(texts),
        "drawn": drawn,
        "errors": errors,
        "seconds": seconds,
        "ms_per_token": 1e3 * seconds / max(tokens, 1),
        "checks_per_token": sum(result.stats.checks for result in results) / max(tokens, 1),
        "masks_per_token": sum(result.stats.masks for result in results) / max(tokens, 1),
    }


def costs(
    tasks: list[Task], vocabulary: Vocabulary, encode: Callable[[str], list[int]], random: Random
) -> dict[str, Any]:
    """Microseconds a check and a mask, and milliseconds to compile, along the tasks' texts or random walks."""
    checks, masks, compiling, exact = [], [], [], 0
    for task in tasks:
        start = time.perf_counter()
        constraint = task.language.compile(vocabulary)
        compiling.append(1e3 * (time.perf_counter() - start))
        exact += constraint.start().mask_is_exact
        for state in _states(task, constraint, vocabulary, encode, random):
            start = time.perf_counter()
            mask = state.bitmask()
            masks.append(1e6 * (time.perf_counter() - start))
            assert mask is not None
            inside = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            if not len(inside):
                continue
            candidates = np.array(random.choices(inside.tolist(), k=CANDIDATES))
            start = time.perf_counter()
            try:
                state.accepts(candidates, masked=True)
            except PredicateError as error:
                say(str(error))
            checks.append(1e6 * (time.perf_counter() - start) / CANDIDATES)
    return {
        "us_per_check": _quantiles(checks),
        "us_per_mask": _quantiles(masks),
        "compile_ms": _quantiles(compiling),
        "exact_masks": exact / len(tasks),
    }


def _states(
    task: Task, constraint: Constraint, vocabulary: Vocabulary, encode: Callable[[str], list[int]], random: Random
) -> Iterator[ConstraintState]:
    for text in task.texts:
        state = constraint.start()
        for token in encode(text):
            yield state
            if not state.accepts(np.array([token]))[0]:
                break  # a molecule of more atoms than the task asks for
            state = state.advance(token)
    if not task.texts:
        state = constraint.start()
        for _ in range(20):
            yield state
            mask = state.bitmask()
            assert mask is not None
            inside = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            inside = inside[inside != vocabulary.eos]
            drawn = np.array(random.choices(inside.tolist(), k=40)) if len(inside) else inside
            passed = drawn[state.accepts(drawn, masked=True)] if len(drawn) else drawn
            if not len(passed):
                return
            state = state.advance(int(passed[0]))


def _quantiles(values: list[float]) -> dict[str, float]:
    return {name: float(np.percentile(values, q)) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}


def partial_matching_by_length() -> dict[str, Any]:
    """Microseconds a test of partial matching, at 20, 200 and 2,000 characters before it."""
    from grammars.patterns.partial import compile_partial

    texts = {
        r"(\w+) \1.*": "ab ab",
        r"(?:(?!xx)\w)+(?<!y)": "ab",
        r"^(?:(.)(?:(?!\1).)*\1)+$": "abca",
        r"(\((?1)*\))+": "(())",
    }
    table: dict[str, Any] = {}
    for pattern, piece in texts.items():
        compiled = compile_partial(pattern)
        row = {}
        for length in (20, 200, 2000):
            text = (piece * length)[:length]
            best = float("inf")
            for _ in range(5):
                start = time.perf_counter()
                for _ in range(20):
                    compiled.fullmatch(text, partial=True, timeout=5)
                best = min(best, (time.perf_counter() - start) / 20)
            row[length] = 1e6 * best
        table[pattern] = row
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patterns", type=int, default=24)
    parser.add_argument("--molecules", type=int, default=12)
    parser.add_argument("--goals", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-model", action="store_true", help="costs of checks and masks alone")
    options = parser.parse_args()

    random = Random(options.seed)
    families = {
        "patterns": (patterns(options.patterns, random), 24),
        "molecules": (molecules(options.molecules, random), 80),
        "goals": (goals(options.goals, random), 128),
    }
    from transformers import AutoTokenizer

    from decoding.embedded_model import embedded_model_path
    from grammars.vocabulary import vocabulary_from_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path(), local_files_only=True)
    vocabulary = vocabulary_from_tokenizer(tokenizer, len(tokenizer))

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    # The vocabulary's trie is built once, by whoever compiles first.
    language_from_spec({"regex": "a"}).compile(vocabulary)
    results: dict[str, Any] = {"partial_matching_us_by_length": partial_matching_by_length()}
    for name, (tasks, _) in families.items():
        results[name] = {"costs": costs(tasks, vocabulary, encode, Random(options.seed))}
        say(f"{name}: {results[name]['costs']}")
    if not options.no_model:
        from decoding.engine import Engine

        with Engine(max_num_seqs=32, max_model_len=4096) as engine:
            for name, (tasks, max_tokens) in families.items():
                for arm, settings in ARMS.items():
                    results[name][arm] = measure(engine, tasks, arm, settings, max_tokens, options.seed)
                    say(f"{name:10s} {arm:14s} {results[name][arm]}")
    report("domains", vars(options), results)


if __name__ == "__main__":
    main()
