"""What does weighted, constrained sampling cost beside plain vLLM, and beside vLLM's own structured outputs?

Every arm makes TOKENS tokens a row from the same prompt, none ends earlier (the languages have no member that short), so
ratios of time are ratios of tokens/s. Constrained arms of both engines use the same regex and the same schema.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import in_turn, plain_vllm, ratio, report, say, spread

PROMPT = "Once upon a time, in a small village by the sea, there lived an old fisherman who"
LONG = " ".join(f"Line {k}: the sea was calm that day." for k in range(140))
REGEX = r"[a-zA-Z ,.'!?\n-]{2000,4000}"
SCHEMA = {"type": "array", "items": {"type": "string"}, "minItems": 500}


def anything(text: str, complete: bool) -> bool:
    return not complete


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 32], help="none: forks alone")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--skip-structured", action="store_true", help="leave vLLM's own structured outputs out")
    options = parser.parse_args()

    from decoding.engine import Engine

    engine = Engine(max_num_seqs=32)
    model = engine._driver.config.model_config.model
    plain = plain_vllm(model, max_num_seqs=32) if options.rows else None
    structured = (
        {}
        if options.skip_structured or not options.rows
        else {
            backend: plain_vllm(model, max_num_seqs=32, structured_outputs_config={"backend": backend})
            for backend in ("xgrammar", "guidance")
        }
    )
    stats: dict[str, Any] = {}
    for rows in options.rows:
        arms = _arms(engine, plain, structured, rows, options.tokens, stats)
        times = in_turn(arms, options.repeats)
        results = {
            name: {
                "tokens_per_s": rows * options.tokens / spread(times[name])["median"],
                "step_ms": {k: 1e3 * v / options.tokens for k, v in spread(times[name]).items()},
                "speed_vs_plain": ratio(times, name, "plain vLLM"),
                **stats.get(name, {}),
            }
            for name in arms
        }
        for name, result in results.items():
            say(f"{rows:3d} rows  {name:34s} {result['tokens_per_s']:8.0f} tok/s  x{result['speed_vs_plain']:.3f}")
        report("overhead", {"rows": rows, "tokens": options.tokens, "repeats": options.repeats}, results)
    _forks(engine, options.tokens, options.repeats)
    engine.close()


def _arms(
    engine: Any, plain: Any, structured: dict[str, Any], rows: int, tokens: int, stats: dict[str, Any]
) -> dict[str, Callable[[], None]]:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    def vllm(llm: Any, **constraint: Any) -> Callable[[], None]:
        params = SamplingParams(
            n=rows,
            temperature=1.0,
            max_tokens=tokens,
            ignore_eos=not constraint,
            structured_outputs=StructuredOutputsParams(**constraint) if constraint else None,
        )

        def run() -> None:
            outputs = llm.generate([PROMPT], params, use_tqdm=False)[0].outputs
            assert all(len(output.token_ids) == tokens for output in outputs), "an arm ended early"

        return run

    def ours(name: str, **options: Any) -> Callable[[], None]:
        counter = iter(range(10**9))

        def run() -> None:
            result = engine.generate(
                PROMPT, particles=rows, max_tokens=tokens, truncate=True, seed=next(counter), **options
            )
            assert all(len(ids) == tokens for ids in result.tokens), "an arm ended early"
            weights = np.exp(result.log_weights - result.log_weights.max())
            stats[name] = {
                "checks_per_token": result.stats.checks_per_token,
                "masks_per_token": result.stats.masks_per_token,
                "weight_cv": float(weights.std() / weights.mean()),
                "ess": result.ess,
                "resamplings": result.stats.resamplings,
            }

        return run

    arms = {"plain vLLM": vllm(plain)}
    for backend, llm in structured.items():
        arms[f"vLLM {backend}, regex"] = vllm(llm, regex=REGEX)
        arms[f"vLLM {backend}, JSON"] = vllm(llm, json=SCHEMA)
    independent = {"ess_threshold": 0.0}
    often = {"resample_every": 10, "resampling": "multinomial", "ess_threshold": 0.0}
    always = {"resample_every": 1, "resampling": "multinomial", "ess_threshold": 0.0}
    for name, options in {
        "masked, regex": {"regex": REGEX, "sampler": "masked", **independent},
        "masked, JSON": {"json_schema": SCHEMA, "sampler": "masked", **independent},
        "AWRS, regex": {"regex": REGEX, "sampler": "awrs", **independent},
        "AWRS, JSON": {"json_schema": SCHEMA, "sampler": "awrs", **independent},
        "AWRS, no-op predicate": {"predicate": anything, "sampler": "awrs", **independent},
        "SMC, ESS test each token, regex": {"regex": REGEX, "sampler": "awrs"},
        "SMC, resampled every 10, no-op": {"predicate": anything, "sampler": "awrs", **often},
        "SMC, resampled every 10, regex": {"regex": REGEX, "sampler": "awrs", **often},
        "SMC, resampled every token, no-op": {"predicate": anything, "sampler": "awrs", **always},
    }.items():
        if rows > 1 or not name.startswith("SMC"):
            arms[name] = ours(name, **options)
    return arms


def _forks(engine: Any, tokens: int, repeats: int) -> None:
    """What a fork costs, by the prompt's length: the scheduler's own time, and the whole step's."""
    scheduler = engine._driver.scheduler
    original = scheduler._fork
    spent: list[float] = []

    def timed(*arguments: Any) -> None:
        start = time.perf_counter()
        original(*arguments)
        spent.append(time.perf_counter() - start)

    scheduler._fork = timed
    results: dict[str, Any] = {}
    for name, prompt in (("short", " ".join(PROMPT.split() * 4)), ("long", LONG)):
        length = len(engine.tokenizer(prompt)["input_ids"])

        def run(every: int | None, prompt: str = prompt) -> None:
            engine.generate(
                prompt, particles=8, max_tokens=tokens, truncate=True, seed=1, ess_threshold=0.0,
                resample_every=every, resampling="multinomial", predicate=anything, sampler="awrs",
            )  # fmt: skip

        before = scheduler.forks_shared, scheduler.forks_recomputed
        spent.clear()
        times = in_turn({"none": lambda: run(None), "every token": lambda: run(1)}, repeats)
        forks = len(spent) / (repeats + 1)
        extra = (spread(times["every token"])["median"] - spread(times["none"])["median"]) / forks
        results[name] = {
            "prompt_tokens": length,
            "forks_a_run": forks,
            "scheduler_us_a_fork": {k: 1e6 * v for k, v in spread(spent).items()},
            "whole_run_us_a_fork": 1e6 * extra,
            "speed_vs_no_resampling": ratio(times, "every token", "none"),
            "shared": scheduler.forks_shared - before[0],
            "recomputed": scheduler.forks_recomputed - before[1],
        }
        say(f"fork at {length} prompt tokens: {results[name]}")
    report("forks", {"particles": 8, "tokens": tokens, "repeats": repeats}, results)


if __name__ == "__main__":
    main()
