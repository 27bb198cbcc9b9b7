"""What does best-of-k cost: k = 32 candidates beside vLLM's own n = 32, judging them, and selection itself?

    draws      32 rows of the same prompt in the same engine: vLLM's n = 32 by its own sampler, against k = 32 of ours without and
               with a constraint and a reward. Time is per token drawn; with ignore_eos, or a language without short members,
               no row ends early, and unconstrained rows may
    judging    32 candidates asked about in one batch, against 32 calls one after the other; every round has a new question,
               so that no round finds the last one's in the prefix cache
    selection  one selection among 1,024 by each rule

    python -m bench.bench_best_of_k [--tokens 48] [--repeats 5] [--judged 32]
Goals that are not met are printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import counted_steps, in_turn, ratio, report, say, spread
from samplers.rule import Drawn, rule_of
from samplers.selection import argmax, sample

PROMPT = "Once upon a time, in a small village by the sea, there lived an old fisherman who"
REGEX = r"[a-zA-Z ,.'!?\n-]{2000,4000}"
K = 32
PARTS = ("draws", "judging", "selection")
RULES: dict[str, Any] = {
    "softmax": "softmax",
    "pessimistic": {"pessimistic": {"beta": 0.5}},
    "best_of_poisson": {"best_of_poisson": {"mean": 8.0}},
    "mbr": {"mbr": {"beta": 1.0}},
}
WORDS = (
    "sea",
    "calm",
    "old",
    "men",
    "went",
    "out",
    "fish",
    "before",
    "light",
    "nets",
    "blue",
    "thread",
    "they",
    "made",
)


def plain(engine: Any, tokens: int, number: int) -> int:
    """vLLM's n = K in the engine of ours, step by step in the thread that drives it. Returns the tokens drawn.

    Without a seed: rows with generators of their own would cost it more.
    """
    from vllm import SamplingParams

    params = SamplingParams(n=K, temperature=1.0, max_tokens=tokens, ignore_eos=True)

    def run(vllm: Any) -> int:
        vllm.add_request(f"plain-{number}", PROMPT, params)
        lengths: dict[int, int] = {}
        while vllm.has_unfinished_requests():
            for output in vllm.step():
                for one in output.outputs:
                    lengths[one.index] = max(lengths.get(one.index, 0), len(one.token_ids))
        assert len(lengths) == K, f"{len(lengths)} rows came back"
        return sum(lengths.values())

    drawn: int = engine._driver.call(run)
    return drawn


def draws(engine: Any, tokens: int, repeats: int) -> dict[str, Any]:
    counter = itertools.count(1)
    counts: dict[str, list[int]] = {}

    def counted(name: str, run: Callable[[int], int]) -> Callable[[], None]:
        counts[name] = []
        return lambda: counts[name].append(run(next(counter)))

    def ours(**options: Any) -> Callable[[int], int]:
        def run(seed: int) -> int:
            options_here = {"k": K, "max_tokens": tokens, "truncate": True, "ess_threshold": 0.0, **options}
            return int(engine.generate(PROMPT, seed=seed, **options_here).usage.sampled_tokens)

        return run

    judged = {"reward": lambda text: float(text.count("e")), "select_temperature": 0.5}
    arms = {
        "vLLM n=32": lambda seed: plain(engine, tokens, seed),
        "k=32": ours(),
        "k=32, a function as reward": ours(**judged),
        "k=32, regex": ours(regex=REGEX, sampler="masked"),
        "k=32, regex, a function as reward": ours(regex=REGEX, sampler="masked", **judged),
    }
    times = in_turn({name: counted(name, run) for name, run in arms.items()}, repeats)
    per_token = {name: [s / n for s, n in zip(times[name], counts[name][1:])] for name in arms}
    return {
        name: {
            "ms_a_token": {k: 1e3 * v for k, v in spread(per_token[name]).items()},
            "tokens": statistics.median(counts[name]),
            "time_beside_vllm": 1 / ratio(per_token, name, "vLLM n=32"),
        }
        for name in arms
    }


def judging(engine: Any, judged: int, repeats: int) -> dict[str, Any]:
    from decoding.judging import JudgeReward
    from samplers.reward import Candidate
    from samplers.rewards.judge import Judge

    counter = itertools.count(1)
    found: dict[str, list[np.ndarray]] = {"batch": [], "serial": []}

    def asked(serial: bool) -> None:
        number = next(counter)
        judge = JudgeReward(Judge(f"{number}: judge whether the answer is right."), engine.asker)
        texts = [Candidate(f"How much is {number} + 40?", f"It is {number + one}.") for one in range(judged)]
        groups = [[text] for text in texts] if serial else [texts]
        rewards = np.concatenate([judge.score(group) for group in groups])
        found["serial" if serial else "batch"].append(rewards)
        assert np.isfinite(rewards).all(), "a candidate was not judged"

    times = in_turn({"batch": lambda: asked(False), "serial": lambda: asked(True)}, repeats)
    with counted_steps(engine) as rows:
        asked(False)
    return {
        "batch_s": spread(times["batch"]),
        "serial_s": spread(times["serial"]),
        "batch is faster by": ratio(times, "batch", "serial"),
        "rows of each step of a batch": rows,
    }


def selection(k: int = 1024) -> dict[str, dict[str, float]]:
    """Milliseconds of one selection by each rule, on different texts of eight words."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(k)]
    rewards, log_weights = rng.standard_normal(k), rng.standard_normal(k)
    found = {}
    for name, spec in RULES.items():
        rule, seconds = rule_of(spec), []
        while len(seconds) < 201 and sum(seconds) < 5.0:
            begun = time.perf_counter()
            weights = rule.log_weights(Drawn(texts, rewards, log_weights, 0.5))
            chances = np.exp(weights - weights.max())
            sample(chances / chances.sum(), len(seconds))
            argmax(chances)
            seconds.append(time.perf_counter() - begun)
        found[name] = {"median_ms": 1e3 * statistics.median(seconds), "times": len(seconds)}
        say(f"selection among {k} by {name}: {found[name]['median_ms']:.3f} ms")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--judged", type=int, default=32)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    from decoding.engine import Engine

    results: dict[str, Any] = {}
    goals: dict[str, bool] = {}
    if options.parts != ["selection"]:
        with Engine(max_num_seqs=K) as engine:
            if "draws" in options.parts:
                results["draws"] = drawn = draws(engine, options.tokens, options.repeats)
                for name, one in drawn.items():
                    beside = one["time_beside_vllm"]
                    say(f"{name:36s} {one['ms_a_token']['median']:.2f} ms a token, {beside:.3f} of vLLM's time")
                goals["k = 32 takes at most 1.1 times vLLM's n = 32"] = all(
                    one["time_beside_vllm"] <= 1.1 for one in drawn.values()
                )
            if "judging" in options.parts:
                results["judging"] = asked = judging(engine, options.judged, options.repeats)
                say(f"judging {options.judged}: batch {asked['batch is faster by']:.2f} times as fast as serial calls")
                goals["judging is one step"] = asked["rows of each step of a batch"] == [options.judged]
    if "selection" in options.parts:
        results["selection_at_1024"] = selected = selection()
        for name, one in selected.items():
            goals[f"selection by {name} in less than 1 ms"] = one["median_ms"] < 1
    for goal, met in goals.items():
        if not met:
            say(f"not met: {goal}")
    settings = {"tokens": options.tokens, "repeats": options.repeats, "judged": options.judged}
    report("best_of_k", settings, {**results, "goals": goals})
    sys.exit(0 if all(goals.values()) else 1)


if __name__ == "__main__":
    main()
