"""Beside its_hub and optillm: the same candidates, judged by the same model on one server. Who picks better, who fails to parse,
how many candidates a second are judged?

One `reweigh serve` with the embedded model answers all of them. its_hub is its best-of-n with its LLM judge (all candidates at
once, a JSON score; with the schema it asks for, and by its prompt alone), optillm its best-of-n (a rating in text, one call after
the other), ours the pointwise judge over HTTP (all at once, one token each, from its distribution). Each has its own prompt and
parser: that is the comparison. Candidates come from bench/results/candidates_TASK.jsonl, which `bench.bench_pool` makes. Arms take
turns, question by question; a judge who is late by --seconds in all is asked no more, and the counts say so. "Chance" is a
candidate at random, "at best" one that is right wherever there is one. Accuracies are of the questions that the arm has answered,
beside chance on the same questions.

    make bench-selection [ARGS="--task arithmetic --questions 12 --k 8 --seconds 120"]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_pool import grouped
from bench.harness import RESULTS, ROOT, report, say
from bench.serving import started
from bench.tasks_selection import FAMILIES, family

MODEL = "bench"
SERVER = {"dtype": "float32", "max-num-seqs": "32", "max-model-len": "1024", "block-size": "32"}


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server with the embedded model."""
    options = [f"--{name}={value}" for name, value in SERVER.items()]
    command = ["-m", "server.cli", "serve", f"--served-model-name={MODEL}", "--enforce-eager", *options]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield f"{started('reweigh', command, environment, folder, stack).ready().url}/v1"


@contextmanager
def peer(python: Path, script: str, url: str, *more: str) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """A peer's process: a function that has a job answered."""
    if not python.exists():
        raise SystemExit(f"{python} is not there: `make bench-selection` makes the environments")
    command = [str(python), str(ROOT / "bench" / "reference" / script), "--url", url, "--model", MODEL, *more]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=RESULTS
        )
        assert process.stdin is not None and process.stdout is not None

        def answered(job: dict[str, Any]) -> dict[str, Any]:
            process.stdin.write(json.dumps(job) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            line = process.stdout.readline()  # type: ignore[union-attr]
            if not line:
                log.seek(0)
                raise SystemExit(f"{script} ended: {log.read().decode(errors='replace')[-2000:]}")
            found: dict[str, Any] = json.loads(line)
            return found

        try:
            yield answered
        finally:
            process.stdin.close()
            process.wait(30)


def ours(url: str, criteria: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    from decoding.judging import JudgeReward
    from samplers.reward import Candidate
    from samplers.rewards.judge import Judge
    from server.judge_endpoint import Endpoint

    reward = JudgeReward(Judge(criteria), Endpoint(url, MODEL, timeout_s=300))

    def answered(job: dict[str, Any]) -> dict[str, Any]:
        begun = time.perf_counter()
        judgement = reward.begin([Candidate(job["question"], text) for text in job["candidates"]])(None)
        seconds = time.perf_counter() - begun
        first = {text: place for place, text in reversed(list(enumerate(job["candidates"])))}
        return {
            "selected": int(np.nanargmax(judgement.rewards)),
            "scores": [None if math.isnan(one) else one for one in judgement.rewards.tolist()],
            "judged": len(first),
            "failed": int(np.isnan(judgement.rewards[list(first.values())]).sum()),
            "seconds": seconds,
            "example": [],
        }

    return answered


def jobs_of(task: str, questions: int, k: int) -> list[dict[str, Any]]:
    """Questions with the first k of their candidates, those first whose candidates are both right and wrong."""
    path = RESULTS / f"candidates_{task}.jsonl"
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `reweigh bench pool` first")
    groups = grouped(path)
    asked = {problem.id: problem.question for problem in family(task, len(groups)).problems}
    jobs = [
        {
            "question": asked[prompt],
            "candidates": [line["candidate"] for line in lines[:k]],
            "correct": [line["correct"] for line in lines[:k]],
        }
        for prompt, lines in groups.items()
        if all(line["candidate"] for line in lines[:k])
    ]
    mixed = [job for job in jobs if 0 < sum(job["correct"]) < k]
    return (mixed + [job for job in jobs if job not in mixed])[:questions]


def summary(jobs: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the questions that an arm has answered, which are the first ones."""
    right = [job["correct"][one["selected"]] for job, one in zip(jobs, found)]
    judged, seconds = sum(one["judged"] for one in found), sum(one["seconds"] for one in found)
    scores = [score for one in found for score in one["scores"] if score is not None]
    return {
        "questions": len(found),
        "accuracy": float(np.mean(right)),
        "standard_error": float(np.std(right, ddof=1) / math.sqrt(len(right))) if len(right) > 1 else None,
        "chance": float(np.mean([np.mean(job["correct"]) for job in jobs[: len(found)]])),
        "at best": float(np.mean([max(job["correct"]) for job in jobs[: len(found)]])),
        "judged": judged,
        "failed to parse": sum(one["failed"] for one in found) / judged,
        "different scores": len(set(scores)),
        "questions with one score for all": float(np.mean([len(set(one["scores"])) == 1 for one in found])),
        "candidates_per_s": judged / seconds,
        "examples": [text for one in found for text in one["example"]][:3],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tuple(FAMILIES), default="arithmetic")
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120.0, help="of judging for each arm")
    parser.add_argument("--its-hub", type=Path, default=ROOT / ".cache" / "its_hub-venv" / "bin" / "python")
    parser.add_argument("--optillm", type=Path, default=ROOT / ".cache" / "optillm-venv" / "bin" / "python")
    options = parser.parse_args()
    jobs = jobs_of(options.task, options.questions, options.k)
    with ExitStack() as stack:
        url = stack.enter_context(server())
        arms = {
            "reweigh": ours(url, family(options.task, 1).criteria),
            "its_hub": stack.enter_context(peer(options.its_hub, "its_hub_run.py", url)),
            "its_hub, no schema": stack.enter_context(peer(options.its_hub, "its_hub_run.py", url, "--plain")),
            "optillm": stack.enter_context(peer(options.optillm, "optillm_run.py", url)),
        }
        for arm in arms.values():  # connections, compilations
            arm({"question": "What is 1 + 1?", "candidates": ["2", "3"]})
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
        for number, job in enumerate(jobs, start=1):
            for name, arm in arms.items():
                if len(found[name]) == number - 1 and sum(x["seconds"] for x in found[name]) < options.seconds:
                    found[name].append(arm({"question": job["question"], "candidates": job["candidates"]}))
            say(f"question {number} of {len(jobs)}: " + ", ".join(f"{name} {len(found[name])}" for name in arms))
    results = {name: summary(jobs, answers) for name, answers in found.items()}
    for name, one in results.items():
        say(
            f"{name:20s} accuracy {one['accuracy']:.3f} (chance {one['chance']:.3f}), failed {one['failed to parse']:.3f}, "
            f"{one['candidates_per_s']:.2f} candidates/s, {one['questions']} questions"
        )
    settings = {"task": options.task, "questions": options.questions, "k": options.k, "seconds": options.seconds}
    report("selection_reference", settings, results)


if __name__ == "__main__":
    main()
