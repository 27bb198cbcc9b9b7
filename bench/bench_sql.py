"""Does SQL under a live schema come out right more often when the weights are kept? 100 Spider questions on 9 SQLite databases.

Every arm answers the same questions from the same prompt with the same model; a question's answer is an arm's likeliest text:

    unconstrained      one draw of p; of the text, what stands in a code fence or before the first semicolon
    sample and rerank  ten draws of p, of which the members of the language are kept and the commonest is taken
    token masking      one draw with local masks and tests (`lcd`): valid by construction, its weight thrown away
    AWRS-SMC           N particles, resampled by their weights

valid     questions whose answer passes EXPLAIN; accuracy: whose answer gives the rows of the gold query
expected  the same accuracy for one text drawn by weight instead of the likeliest
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.harness import DATA, report, say
from grammars.constraint import ConstraintState
from grammars.registry import compile_cached
from grammars.sql import Sql

MAX_TOKENS = 96
EXECUTE_S = 5.0


@dataclass(frozen=True)
class Question:
    database: Path
    text: str
    gold: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--questions", type=int, default=100, metavar="K", help="the first K, spread over the databases"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample-values", type=int, default=0, help="values of every column shown in the prompt")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--forward-column", type=int, default=0, help="the option of Sql")
    parser.add_argument("--arms", nargs="*", help="names of arms; all of them by default")
    parser.add_argument("--show", action="store_true", help="print every answer")
    options = parser.parse_args()
    questions = _questions(options.questions)

    from decoding.engine import Engine

    with Engine(max_num_seqs=64) as engine:
        languages = {
            question.database: Sql(str(question.database), forward_column=options.forward_column)
            for question in questions
        }
        results: dict[str, Any] = {"checks": _checks(questions, languages, engine)}
        say(f"checks: {results['checks']}")
        arms: dict[str, dict[str, Any]] = {
            "unconstrained": {"particles": 1, "ess_threshold": 0.0},
            "sample and rerank, N=10": {"particles": 10, "ess_threshold": 0.0},
            "token masking": {"particles": 1, "sampler": "lcd"},
            "AWRS-SMC, N=5": {"particles": 5, "sampler": "awrs"},
            "AWRS-SMC, N=10": {"particles": 10, "sampler": "awrs"},
        }
        for name, arm in arms.items():
            if options.arms and name not in options.arms:
                continue
            results[name] = _arm(engine, questions, languages, name, arm, options)
            say(f"{name:24s} " + " ".join(f"{k}={v:.3g}" for k, v in results[name].items()))
    settings = {key: value for key, value in vars(options).items() if key != "show"} | {"max_tokens": MAX_TOKENS}
    report("sql", settings | {"questions": len(questions)}, results)


def _questions(count: int) -> list[Question]:
    folder = DATA / "sql"
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    # They are sorted by database: every so many-th one.
    chosen = [rows[k * len(rows) // count] for k in range(min(count, len(rows)))]
    return [
        Question(folder / "database" / row["db_id"] / f"{row['db_id']}.sqlite", row["question"], row["query"])
        for row in chosen
    ]


def _arm(
    engine: Any, questions: list[Question], languages: dict[Path, Sql], name: str, arm: dict[str, Any], options: Any
) -> dict[str, float]:
    """One arm over all questions, in one batch."""
    free = "sampler" not in arm
    valid = accurate = 0
    expected = tokens = checks = finished = passing = dead = 0.0
    say(f"{name}:")
    begun = time.perf_counter()
    answers = engine.generate(
        messages=[
            languages[question.database].messages(question.text, options.sample_values) for question in questions
        ],
        constraint=[None if free else languages[question.database] for question in questions],
        max_tokens=MAX_TOKENS,
        truncate=free,
        seed=options.seed,
        temperature=options.temperature,
        progress=True,
        **arm,
    )
    spent = time.perf_counter() - begun
    judges = {database: _judges(database) for database in languages}
    for question, answer in zip(questions, answers, strict=True):
        explain, execute = judges[question.database]
        tokens += answer.stats.sampled_tokens
        checks += answer.stats.checks
        gold = execute(question.gold)
        assert gold is not None, question.gold
        if free:
            texts = [sql for text in answer.texts if explain(sql := _query_in(text))]
            law = {text: n / len(texts) for text, n in Counter(texts).most_common()}
        else:
            law = {} if answer.error else answer.posterior()
            dead += answer.error is not None
            for text, weight in zip(answer.texts, answer.log_weights, strict=True):
                if weight > -np.inf:
                    finished += 1
                    passing += explain(text)
        best = next(iter(law), None)
        valid += best is not None
        right = {text: _same(question.gold, gold, execute(text)) for text in law}
        accurate += best is not None and right[best]
        expected += sum(mass for text, mass in law.items() if right[text])
        if options.show:
            say(
                f"  {'+' if best is not None and right[best] else '-'} {question.text}\n      {question.gold}\n      {best}"
            )
            if answer.error or free:
                say(f"      {answer.error}\n      {answer.texts[:3]}")
    count = len(questions)
    result = {
        "valid": valid / count,
        "accuracy": accurate / count,
        "expected_accuracy": expected / count,
        "s_per_question": spent / count,
        "ms_per_token": 1e3 * spent / max(tokens, 1),
        "checks_per_token": checks / max(tokens, 1),
        "tokens_per_question": tokens / count,
    }
    if not free:
        result |= {"finished": finished, "finished_passing_explain": passing / max(finished, 1), "dead": dead}
        assert passing == finished, f"{name}: a finished query does not pass EXPLAIN"
    return result


def _judges(database: Path) -> tuple[Callable[[str], bool], Callable[[str], list[tuple[Any, ...]] | None]]:
    """Two functions of a query on a connection of their own: does it compile, and which rows does it give (None: an error)?"""
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
    connection.text_factory = lambda data: data.decode(errors="replace")

    def timed(query: str) -> list[tuple[Any, ...]]:
        end = time.monotonic() + EXECUTE_S
        connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        return connection.execute(query).fetchmany(100_000)

    def explain(query: str) -> bool:
        try:
            timed("EXPLAIN " + query)
        except (sqlite3.Error, sqlite3.Warning):
            return False
        return re.match(r"\s*(select|with)\b", query, re.I) is not None

    def execute(query: str) -> list[tuple[Any, ...]] | None:
        try:
            return timed(query)
        except (sqlite3.Error, sqlite3.Warning):
            return None

    return explain, execute


def _query_in(text: str) -> str:
    """The query in a model's free answer."""
    fenced = re.search(r"```(?:sql)?\s*(.*?)(?:```|$)", text, re.S | re.I)
    found = fenced[1] if fenced else text
    return found.partition(";")[0].strip()


def _same(gold: str, wanted: list[tuple[Any, ...]], got: list[tuple[Any, ...]] | None) -> bool:
    """Whether two results have the same rows, in the same order where the gold query asks for one."""
    if got is None:
        return False
    if re.search(r"order\s+by", gold, re.I) and not re.search(r"limit", gold, re.I):
        return wanted == got
    return Counter(map(repr, wanted)) == Counter(map(repr, got))


def _checks(questions: list[Question], languages: dict[Path, Sql], engine: Any) -> dict[str, float]:
    """Time of one test of the next token, of one mask, and of compiling, along the gold queries as the tokenizer writes them."""
    vocabulary, tokenizer = engine.vocabulary, engine.tokenizer
    compile_ms: list[float] = []
    check_us: list[float] = []
    mask_us: list[float] = []
    end_us: list[float] = []
    accepted = 0
    # The vocabulary's trie is made once a model.
    next(iter(languages.values())).compile(vocabulary)
    for language in languages.values():
        begun = time.perf_counter()
        language.compile(vocabulary)
        compile_ms.append(1e3 * (time.perf_counter() - begun))
    for question in tqdm(questions, desc="checks", unit="query"):
        state: ConstraintState = compile_cached(languages[question.database], vocabulary).start()
        for token in tokenizer(question.gold, add_special_tokens=False)["input_ids"]:
            one = np.array([token])
            begun = time.perf_counter()
            state.bitmask()
            between = time.perf_counter()
            passed = bool(state.accepts(one)[0])
            check_us.append(1e6 * (time.perf_counter() - between))
            mask_us.append(1e6 * (between - begun))
            if not passed:
                break
            state = state.advance(token)
        else:
            begun = time.perf_counter()
            accepted += state.is_complete
            end_us.append(1e6 * (time.perf_counter() - begun))
    return {
        "gold_accepted": accepted,
        "gold": len(questions),
        **{
            f"{name}_{point}": float(np.percentile(values, q))
            for name, values in (
                ("check_us", check_us), ("mask_us", mask_us), ("end_with_explain_us", end_us), ("compile_ms", compile_ms),
            )
            for point, q in (("p50", 50), ("p99", 99))
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
