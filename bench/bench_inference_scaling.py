"""What is selection among k worth, near and far from the truth, on easy and on hard tasks? The paper's figures from our code.

    table      every cell of the acceptance table of the solvable model
    k          error against k at several T, for a reward near the teacher and for one far from it
    t          error against T at fixed k: the best T is 0 near, and grows with k far from the truth
    square     k²·error of the hard rule with the teacher as reward, averaged: the Θ(1/k²) line for a² < ½, slower above
    crossover  local exponent of the averaged error against the difficulty a²: 2 below ½, 1/a² above
    regression Monte Carlo of Bayesian linear regression (d = 200, n = 2000) beside the deterministic equivalents
    selection  seconds of one selection at k = 1024
With --pool FILE also `reweigh calibrate` on a pool; --make-pool FILE makes one on GSM8K with the embedded model: the reward is
its own mean log-probability, the verdict a number that matches. Pictures go to bench/results. Fails where a figure of the
theory is not met.
Source: arXiv 2512.19905, figures 1 to 6.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import DATA, RESULTS, ROOT, report, say
from samplers.inference_scaling import Question, best_k, best_temperature, exact_error, limit_error, one_over_k_error
from samplers.inference_scaling_average import Field, averaged_error, cold_average_coefficient, cold_exponent
from samplers.inference_scaling_regression import Regression, simulated_errors
from samplers.selection import sample, selection_weights

TABLE = {
    (0.5, 0.5, 1.0): (1.25, 0.76583, 0.63760, 0.59587, 0.57837, 0.56633, 0.56345, 0.56250),
    (0.5, 0.5, 0.0): (1.25, 0.46054, 0.15414, 0.04716, 0.01340, 9.42e-4, 6.08e-5, 0.0),
    (0.2, -0.05, 3.0): (1.04, 0.88773, 0.83670, 0.81496, 0.80484, 0.79754, 0.79575, 0.79516),
    (0.2, -1.8, 5.0): (1.04, 1.02329, 1.04784, 1.06468, 1.07383, 1.08093, 1.08273, 1.08333),
    (0.2, -1.8, 0.0): (1.04, 1.23828, 1.88112, 2.64078, 3.28853, 3.90098, 3.99260, 4.0),
}
KS = np.unique(np.round(2.0 ** np.arange(0, 10.01, 0.5)).astype(int))
NEAR, FAR = Question(0.5, 0.5), Question(0.2, -1.8)


def table() -> float:
    """The largest distance from a cell."""
    worst = 0.0
    for (delta_t, delta_r, t), row in TABLE.items():
        question = Question(delta_t, delta_r)
        got = [*exact_error(question, (1, 2, 4, 8, 16, 64, 256), 2 * t), limit_error(question, 2 * t)]
        worst = max(worst, float(np.abs(np.array(got) - row).max()))
    return worst


def against_k(axes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, (name, question) in zip(axes, {"near": NEAR, "far": FAR}.items()):
        for t, shade in zip((0.0, 0.3, 1.0, 3.0, 10.0), _shades(5)):
            errors = exact_error(question, KS, 2 * t)
            place.plot(KS, errors, color=shade, label=f"t = {t:g}")
            if t > 0:
                place.plot(KS[KS >= 8], one_over_k_error(question, KS[KS >= 8], 2 * t), ":", color=shade, lw=2)
            found[f"{name}, t={t:g}: best k"] = best_k(question, 2 * t, 1024)
        place.set(xscale="log", title=f"{name}: Δ_T = {question.delta_t:g}, Δ_R = {question.delta_r:g}", xlabel="k")
        place.set_ylabel("error δ(k, T);  dotted: the 1/k law")
        if name == "near":
            place.set_yscale("log")
        place.legend(frameon=False, fontsize=8)
    return found


def against_t(axes: Any) -> dict[str, float]:
    ts, found = np.logspace(-2, 2, 41), {}
    for place, (name, question) in zip(axes, {"near": NEAR, "far": FAR}.items()):
        for k, shade in zip((2, 8, 32, 128), _shades(4)):
            errors = [exact_error(question, [k], 2 * t)[0] for t in ts]
            place.plot(ts, errors, color=shade, label=f"k = {k}")
            best = best_temperature(question, k) / 2
            found[f"{name}, k={k}: best t"] = best if best < math.inf else -1.0
            if 0.01 <= best <= 100:
                place.plot(best, exact_error(question, [k], 2 * best)[0], "o", color=shade)
        place.plot(ts, [limit_error(question, 2 * t) for t in ts], "k--", lw=1, label="k → ∞")
        place.set(xscale="log", title=f"{name}: dots at the best T", xlabel="t = T / 2s²", ylabel="error δ(k, T)")
        if name == "near":
            place.set_yscale("log")
        place.legend(frameon=False, fontsize=8)
    return found


def squares(place: Any) -> dict[str, float]:
    """k²·error of the hard rule, against its limit."""
    ks, found = np.unique(np.logspace(0, 5, 21).round().astype(int)), {}
    for a2, shade in zip((0.0, 0.2, 0.4, 0.8, 1.6), _shades(5)):
        field = Field(1.0, a2)
        scaled = averaged_error(field, ks, 0.0) * (ks + 1.0) * (ks + 2.0)
        place.plot(ks, scaled, color=shade, label=f"a² = {a2:g}")
        coefficient = cold_average_coefficient(field)
        if coefficient < math.inf:
            place.axhline(coefficient, color=shade, ls=":", lw=2)
            found[f"a²={a2:g}: k²·error / coefficient at k=1e5"] = float(scaled[-1] / coefficient)
    place.set(xscale="log", yscale="log", title="Θ(1/k²) for a² < ½ (dotted: its coefficient)", xlabel="k")
    place.set_ylabel("(k+1)(k+2)·error, T = 0")
    place.legend(frameon=False, fontsize=8)
    return found


def crossover(place: Any) -> dict[str, float]:
    difficulties = np.concatenate([np.arange(0.05, 1.0, 0.05), np.arange(1.0, 3.01, 0.25)])
    for low, shade in zip((2, 4, 6), _shades(3)):
        pair = np.array([10**low, 10 ** (low + 1)])
        slopes = [math.log10(e[0] / e[1]) for a2 in difficulties if len(e := averaged_error(Field(1.0, a2), pair, 0.0))]
        place.plot(difficulties, slopes, color=shade, label=f"k = 1e{low} to 1e{low + 1}")
    exponents = [cold_exponent(Field(1.0, a2)) for a2 in difficulties]
    place.plot(difficulties, exponents, "k--", lw=1, label="k → ∞: 2, then 1/a²")
    place.set(
        title="harder tasks lose the benefit",
        xlabel="difficulty a² = E_g / s²",
        ylabel="exponent of 1/k",
        ylim=(0, 2.2),
    )
    place.legend(frameon=False, fontsize=8)
    return {f"a²={a2:.2g}": slope for a2, slope in zip(difficulties, slopes) if round(a2, 2) in (0.25, 0.5, 1.0, 2.0)}


def regression(place: Any, data_sets: int) -> dict[str, Any]:
    """z-scores of the mean over data sets beside the theory, all cells."""
    ks, found = (1, 2, 4, 8, 16, 32, 64), {}
    arms = {
        "teacher as reward, T=0": (Regression(200, 2000, 0.5), 0.0),
        "teacher as reward, T=.2": (Regression(200, 2000, 0.5), 0.2),
        "far reward, T=.2": (Regression(200, 2000, 0.5, reward_gap=1.0, reward_overlap=-0.4), 0.2),
        "far reward, T=2": (Regression(200, 2000, 0.5, reward_gap=1.0, reward_overlap=-0.4), 2.0),
    }
    for (name, (model, temperature)), shade in zip(arms.items(), _shades(len(arms))):
        errors = simulated_errors(model, ks, temperature, np.random.default_rng(0), data_sets=data_sets, points=500)
        theory, bars = averaged_error(model.field, ks, temperature), errors.std(0, ddof=1) / math.sqrt(data_sets)
        place.errorbar(ks, errors.mean(0), 3 * bars, fmt="o", ms=3, color=shade, label=name)
        place.plot(ks, theory, color=shade)
        found[name] = {
            "theory": theory.tolist(),
            "measured": errors.mean(0).tolist(),
            "standard_error": bars.tolist(),
            "largest_z": float(np.abs((errors.mean(0) - theory) / bars).max()),
        }
        say(f"regression, {name}: largest |z| {found[name]['largest_z']:.2f}")
    place.set(xscale="log", yscale="log", title="Bayesian linear regression, d=200, n=2000", xlabel="k", ylabel="error")
    place.legend(frameon=False, fontsize=8)
    return found


def selection_us(k: int = 1024, repeats: int = 200) -> dict[str, float]:
    rng = np.random.default_rng(0)
    rewards, log_weights, seconds = rng.standard_normal(k), rng.standard_normal(k), []
    for seed in range(repeats):
        begun = time.perf_counter()
        sample(selection_weights(rewards, 0.5, log_weights), seed)
        seconds.append(time.perf_counter() - begun)
    return {"median_us": 1e6 * statistics.median(seconds), "p90_us": 1e6 * sorted(seconds)[int(0.9 * repeats)]}


def make_pool(path: Path, questions: int, particles: int) -> None:
    """Draws of the embedded model on GSM8K's shortest test questions, four shots; reward: mean log-probability."""
    from decoding.engine import Engine
    from samplers.reward import Candidate, reward_named

    folder = DATA / "gsm8k"
    test = _shortest(folder / "test.jsonl", "solution", questions)
    shots = _shortest(folder / "train_fewshot.jsonl", "answer", 4)
    head = "".join(f"Question: {one['question']}\nAnswer: {re.sub('<<.*?>>', '', one['answer'])}\n\n" for one in shots)
    with Engine(max_num_seqs=32, max_model_len=768) as engine:
        results = engine.generate(
            [f"{head}Question: {row['question']}\nAnswer:" for row in test],
            particles=particles, ess_threshold=0.0, temperature=0.7, max_tokens=100, stop=["Question:"], truncate=True, seed=1,
        )  # fmt: skip
    mean_logprob = reward_named("mean_logprob")
    with path.open("w") as file:
        for row, result in zip(test, results):
            result.raise_for_error()
            match = reward_named({"numeric_match": {"reference": row["answer"]}})
            candidates = [
                Candidate(row["question"], text, float(log_prob), len(tokens) + (reason == "stop"))
                for text, log_prob, tokens, reason in zip(
                    result.texts, result.log_probs, result.tokens, result.finish_reasons
                )
            ]
            for one, reward, correct in zip(candidates, mean_logprob.score(candidates), match.score(candidates)):
                line = {"prompt": row["id"], "candidate": one.text, "reward": reward, "correct": int(correct)}
                file.write(json.dumps(line | {"tokens": one.num_tokens}) + "\n")


def _shortest(path: Path, by: str, count: int) -> list[dict[str, Any]]:
    """The lines whose field `by` is shortest: questions of few steps."""
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda line: len(line[by]))[:count]


def calibrated(path: Path) -> dict[str, Any]:
    """`reweigh calibrate` on a pool: its table to stderr, its picture beside the others."""
    import subprocess

    command = [sys.executable, "-m", "server.cli", "calibrate", "--pool", str(path)]
    picture = str(RESULTS / f"calibrate_{path.stem}.png")
    say(subprocess.run([*command, "--plot", picture], check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    found = json.loads(
        subprocess.run([*command, "--json", "--quiet"], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    )
    return {name: found[name] for name in ("pool", "laws", "recommendation", "verdict")}


def _shades(count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", type=int, default=100, help="of the regression")
    parser.add_argument("--pool", type=Path, help="a pool to calibrate on")
    parser.add_argument("--make-pool", type=Path, help="make a pool on GSM8K first, and calibrate on it")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--particles", type=int, default=16)
    options = parser.parse_args()
    from matplotlib.figure import Figure

    RESULTS.mkdir(exist_ok=True)
    results: dict[str, Any] = {"largest distance from the table": table()}
    figure = Figure(figsize=(11, 15), layout="constrained", dpi=120)
    axes = figure.subplots(4, 2)
    results["k"] = against_k(axes[0])
    results["t"] = against_t(axes[1])
    results["square"] = squares(axes[2, 0])
    say("crossover")
    results["crossover"] = crossover(axes[2, 1])
    results["regression"] = regression(axes[3, 0], options.data_sets)
    results["selection"] = selection_us()
    axes[3, 1].axis("off")
    for ending in ("png", "svg"):
        figure.savefig(RESULTS / f"inference_scaling.{ending}")
    if options.make_pool is not None:
        make_pool(options.make_pool, options.questions, options.particles)
    if (pool := options.make_pool or options.pool) is not None:
        results["pool"] = calibrated(pool)
    goals = {
        "every cell of the table to half of its last digit": results["largest distance from the table"] <= 5.01e-6,
        "k²·error is its coefficient within 1 % for a² < ½": all(
            abs(value - 1) < 0.01 for value in results["square"].values()
        ),
        "the regression within 5 standard errors": all(one["largest_z"] < 5 for one in results["regression"].values()),
        "selection at k = 1024 takes less than 1 ms": results["selection"]["median_us"] < 1000,
    }
    results["goals"] = goals
    report(
        "inference_scaling", {"data_sets": options.data_sets, "pool": str(options.make_pool or options.pool)}, results
    )
    sys.exit(0 if all(goals.values()) else 1)


if __name__ == "__main__":
    main()
