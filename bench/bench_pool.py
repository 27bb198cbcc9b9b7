"""On real questions: what does selection among k gain, by a verifier, by the model as its own judge, by its likelihood?

Candidates are plain draws of the embedded model (in float32), all of a few prompts in one batch; queries, the expressions of
countdown and programs of indented lines are drawn by token masking, and programs are tested in a sandbox. The judge is the same
model, asked pointwise for an expected score of 1 to 5. Every candidate stands as one line in bench/results/candidates_TASK.jsonl:
what is there is not drawn again, so a run that was broken off goes on where it was. From these lines a pool is made for each
reward, and `reweigh calibrate` is run on it: accuracy against k and T, the 1/k law beside what is measured, the verdict. A pool is
without the candidates that have no such reward (empty ones for the judge, dead ends for the likelihood), and without prompts that
lose more than half of theirs by this. Pictures go to bench/results.

    python -m bench.bench_pool [--tasks arithmetic gsm8k countdown sql humaneval] [--questions 60] [--k 32] [--fresh]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.harness import RESULTS, ROOT, report, say
from bench.tasks_selection import FAMILIES, Family, Problem, family

# Questions, and candidates of each.
SIZES = {"arithmetic": (60, 32), "gsm8k": (40, 16), "countdown": (40, 32), "sql": (40, 16), "humaneval": (40, 16)}
AT_ONCE = 4  # prompts between two writes
REWARDS = ("verifier", "judge", "mean_logprob")
TS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


def draw(name: str, tasks: Family, k: int, path: Path) -> None:
    """Append the candidates of every problem that has none yet."""
    done = complete(path, k)
    waiting = [problem for problem in tasks.problems if problem.id not in done]
    if not waiting:
        return
    from decoding.engine import Engine

    with (
        Engine(max_num_seqs=64, max_model_len=1024, dtype="float32") as engine,
        path.open("a", encoding="utf-8") as file,
        tqdm(total=len(tasks.problems), initial=len(tasks.problems) - len(waiting), unit="prompt", desc=name) as bar,
    ):
        for at in range(0, len(waiting), AT_ONCE):
            some = waiting[at : at + AT_ONCE]
            for problem, lines in zip(some, judged(engine, tasks, some, k)):
                file.writelines(json.dumps({"prompt": problem.id, **line}) + "\n" for line in lines)
                file.flush()
                bar.update()


def complete(path: Path, k: int) -> set[str]:
    """Ids of problems with all k candidates. Takes a problem that was broken off out of the file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["prompt"]] = counts.get(line["prompt"], 0) + 1
    odd = [count for count in counts.values() if count > k]
    if odd:
        raise SystemExit(
            f"{path} has {odd[0]} candidates for a prompt and k={k} were asked for: say --k {odd[0]} or --fresh"
        )
    if any(count < k for count in counts.values()):
        whole = [json.dumps(line) + "\n" for line in lines if counts[line["prompt"]] == k]
        path.write_text("".join(whole), encoding="utf-8")
    return {prompt for prompt, count in counts.items() if count == k}


def judged(engine: Any, tasks: Family, problems: list[Problem], k: int) -> Iterator[list[dict[str, Any]]]:
    """The lines of each problem: its candidates, verified and judged."""
    from decoding.judging import JudgeReward
    from decoding.request import num_tokens
    from samplers.reward import Candidate
    from samplers.rewards.judge import Judge

    languages = [problem.language for problem in problems]
    held: dict[str, Any] = {"constraint": languages, "sampler": "lcd"} if any(languages) else {}
    results = engine.generate(
        [problem.prompt for problem in problems],
        particles=k, ess_threshold=0.0, temperature=tasks.temperature, max_tokens=tasks.max_tokens, stop=list(tasks.stop),
        truncate=True, seed=seed_of(problems[0]), progress=False, **held,
    )  # fmt: skip
    judge = JudgeReward(Judge(tasks.criteria), engine.asker)
    judging = []
    for problem, result in zip(problems, results):
        result.raise_for_error()
        judging.append(judge.begin([Candidate(problem.question, text.strip()) for text in result.texts]))
    for problem, result, collect in zip(problems, results, judging):
        verdicts = collect(None).verdicts
        assert verdicts is not None
        lines = []
        for text, log_prob, tokens, reason, verdict in zip(
            result.texts, result.log_probs, result.tokens, result.finish_reasons, verdicts
        ):
            count = num_tokens(tokens, reason)
            correct = int(problem.correct(text))
            rewards = {
                "verifier": float(correct),
                "judge": None if math.isnan(verdict.reward) else round(verdict.reward, 6),
                "mean_logprob": round(float(log_prob) / max(count, 1), 6) if math.isfinite(log_prob) else None,
            }
            spread = {} if math.isnan(verdict.reward) else {"outside": round(verdict.outside, 6)}
            lines.append({"candidate": text.strip(), "correct": correct, "tokens": count, "rewards": rewards, **spread})
        yield lines


def seed_of(problem: Problem) -> int:
    """The same for the same problem, whatever was drawn before it."""
    return int.from_bytes(problem.id.encode()[-7:], "big")


def pool_of(candidates: Path, reward: str) -> Path:
    """The pool that `reweigh calibrate` reads: one reward, candidates without it left out.

    A prompt that so loses more than half of its candidates is left out too: curves go to the k that every prompt has.
    """
    path = candidates.with_name(f"pool_{candidates.stem.removeprefix('candidates_')}_{reward}.jsonl")
    with path.open("w", encoding="utf-8") as file:
        for group in grouped(candidates).values():
            having = [line for line in group if line["rewards"][reward] is not None]
            if 2 * len(having) < len(group):
                continue
            for line in having:
                kept = {name: line[name] for name in ("prompt", "candidate", "correct", "tokens")}
                file.write(json.dumps({**kept, "reward": line["rewards"][reward]}) + "\n")
    return path


def grouped(candidates: Path) -> dict[str, list[dict[str, Any]]]:
    """Prompt -> its candidates, in the file's order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, candidates.read_text(encoding="utf-8").splitlines()):
        groups.setdefault(line["prompt"], []).append(line)
    return groups


def calibrated(pool: Path) -> dict[str, Any]:
    """What `reweigh calibrate` says of a pool: its table to stderr, its own picture beside the pool."""
    command = [sys.executable, "-m", "server.cli", "calibrate", "--pool", str(pool), "--temperatures", *map(str, TS)]
    picture = ["--plot", str(pool.with_name(f"calibrate_{pool.stem}.png"))]
    said = subprocess.run([*command, *picture], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    say(f"== {pool.stem}\n{said}")
    asked = [*command, "--json", "--quiet"]
    found: dict[str, Any] = json.loads(
        subprocess.run(asked, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    )
    return found


def summary(candidates: Path) -> dict[str, Any]:
    """What the pool is: how often the model is right, and how well each reward tells right from wrong within a prompt."""
    groups = grouped(candidates)
    lines = [line for group in groups.values() for line in group]
    outside = [line["outside"] for line in lines if "outside" in line]
    return {
        "prompts": len(groups),
        "candidates": len(lines),
        "correct": float(np.mean([line["correct"] for line in lines])),
        "prompts with a correct candidate": float(np.mean([any(x["correct"] for x in g) for g in groups.values()])),
        "not judged": sum(line["rewards"]["judge"] is None for line in lines),
        "mass off the scale": {"median": float(np.median(outside)), "max": max(outside)},
        "auc": {name: auc(groups.values(), name) for name in REWARDS if name != "verifier"},
    }


def auc(groups: Any, reward: str) -> dict[str, float]:
    """P(a right candidate has a higher reward than a wrong one of its prompt), ties half; mean over prompts that have both."""
    found = []
    for group in groups:
        right = np.array([x["rewards"][reward] for x in group if x["correct"] and x["rewards"][reward] is not None])
        wrong = np.array([x["rewards"][reward] for x in group if not x["correct"] and x["rewards"][reward] is not None])
        if len(right) and len(wrong):
            apart = right[:, None] - wrong
            found.append(float(((apart > 0) + 0.5 * (apart == 0)).mean()))
    if len(found) < 2:
        return {"prompts": len(found)}
    error = float(np.std(found, ddof=1) / math.sqrt(len(found)))
    return {"prompts": len(found), "mean": float(np.mean(found)), "standard_error": error}


def picture(found: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """A row for each task: value against k for each reward (bold T = 0, dotted the 1/k law), and against T at the largest k."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3.8 * len(found)), layout="constrained", dpi=120)
    axes = figure.subplots(len(found), len(REWARDS) + 1, squeeze=False)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(TS)))
    for row, (task, rewards) in zip(axes, found.items()):
        for place, (reward, one) in zip(row, rewards.items()):
            ks = np.array(one["k"])
            for curve, shade in zip(one["curves"], shades):
                cold = curve["temperature"] == 0
                label = f"T = {curve['temperature']:g}"
                place.plot(ks, curve["mean"], color=shade, lw=2.2 if cold else 1.0, label=label)
                if cold:
                    place.fill_between(ks, curve["low"], curve["high"], color=shade, alpha=0.12, lw=0)
            for law in one["laws"]:
                shade = shades[TS.index(law["temperature"])]
                place.plot(ks[ks >= 4], law_curve(law, one, ks[ks >= 4]), ":", color=shade, lw=1.6)
            place.plot(ks, one["pass_at_k"], "--", color="#8a8a8a", lw=1, label="pass@k")
            place.set(xscale="log", title=f"{task}, reward: {reward}", xlabel="k", ylabel="accuracy of the selected")
            doublings = [int(k) for k in ks if k & (k - 1) == 0]
            place.set_xticks(doublings, [str(k) for k in doublings])
            row[-1].plot(TS[1:], [curve["mean"][-1] for curve in one["curves"][1:]], "o-", ms=3, label=reward)
        row[0].legend(frameon=False, fontsize=7)
        row[-1].axhline(next(iter(rewards.values()))["curves"][0]["mean"][0], color="k", ls="--", lw=1, label="k = 1")
        row[-1].set(xscale="log", title=f"{task}, at the largest k", xlabel="T, in a prompt's standard deviations")
        row[-1].legend(frameon=False, fontsize=7)
    figure.savefig(path)


def law_curve(law: dict[str, Any], one: dict[str, Any], ks: np.ndarray) -> np.ndarray:
    """The 1/k law drawn through what `calibrate` predicts at one k: limit + c·(1/k - 1/n)."""
    n = one["pool"]["fewest"]
    slope = (law["predicted"] - law["limit"]) / (1 / law["k"] - 1 / n) if law["k"] < n else 0.0
    return law["limit"] + slope * (1 / ks - 1 / n)


def brief(one: dict[str, Any]) -> dict[str, Any]:
    """What goes into the JSON line."""
    at = [one["k"].index(k) for k in one["k"] if k & (k - 1) == 0]
    return {
        "k": [one["k"][place] for place in at],
        "accuracy": {f"T={c['temperature']:g}": [round(c["mean"][place], 4) for place in at] for c in one["curves"]},
        "band at T=0": [[round(one["curves"][0][end][place], 4) for place in at] for end in ("low", "high")],
        "pass@k": [round(one["pass_at_k"][place], 4) for place in at],
        "laws": one["laws"],
        "recommendation": one["recommendation"],
        "verdict": one["verdict"],
    }


def _said(place: int) -> str:
    return ", ".join(f"{name} {size[place]}" for name, size in SIZES.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--questions", type=int, help="of each task (default: " + _said(0) + ")")
    parser.add_argument("--k", type=int, help="candidates of each question (default: " + _said(1) + ")")
    parser.add_argument("--fresh", action="store_true", help="draw again what has been drawn")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    results: dict[str, Any] = {}
    for name in options.tasks:
        path = RESULTS / f"candidates_{name}.jsonl"
        if options.fresh:
            path.unlink(missing_ok=True)
        questions, k = (given or own for given, own in zip((options.questions, options.k), SIZES[name]))
        draw(name, family(name, questions), k, path)
        found[name] = {reward: calibrated(pool_of(path, reward)) for reward in REWARDS}
        results[name] = {**summary(path), **{reward: brief(one) for reward, one in found[name].items()}}
    picture(found, RESULTS / "pool.png")
    say(f"wrote {RESULTS / 'pool.png'}")
    report("pool", {"tasks": options.tasks, "questions": options.questions, "k": options.k}, results)


if __name__ == "__main__":
    main()
