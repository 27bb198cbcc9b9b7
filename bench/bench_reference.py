"""How does reweigh compare with genlm-control, the reference implementation, on the same model and the same tasks?

Both sides take turns, run by run, on one thread each; the reference is a process of its own environment, made by
`make bench-reference`. Both start every run with an empty cache of the prompt, so its forward is paid once by each.

    python -m bench.bench_reference [tasks] [--particles 5 10] [--seeds 5] [--samplers auto awrs]

What is counted, all as CPU time of the whole process (every thread), per token drawn (a particle's, its end included):
    end to end       the run, less the set-up of model and constraint
    beside forward   the same, less the model's own forward up to its logits; what remains is scheduling, batches, the
                     token sampler, the constraint, SMC
    sampling         of that the token sampler, the constraint and SMC; not what prepares batches for the model
Ratios are medians over seeds of reference / reweigh. `limit` is end to end / reweigh's forward alone: the ratio that
sampling for nothing would give.

Both estimates of Z are unbiased, log Z of neither is: so they are compared as means of Z, over all runs of a task, where
both read the same language (JSON differs in white space and the order of keys: there only our samplers are compared with
each other). More than 4 standard errors apart is an inconsistency, and the exit status is 1. Goals that are not met are
printed and leave it at 0.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from scipy import stats

from bench.harness import ROOT, report, say
from bench.reference.meter import Meter
from bench.tasks import TASKS, Task
from decoding.engine import engine_defaults

PYTHON = ROOT / ".cache" / "genlm-venv" / "bin" / "python"
REMEDY = "run `make bench-reference ARGS=date` first: it makes the environment and tries it"
REFERENCE = "genlm"
END_TO_END_GOAL = {"regex": 3.0, "JSON": 10.0, "SQL": 10.0}
BESIDE_GOAL = 20.0
GOAL_PARTICLES = 10
ALLOWED_SIGMAS = 4.0


@dataclass(frozen=True)
class Run:
    """One run of one side. error: why it crashed, "" if it did not; in a dead run every particle died, log_z = -inf."""

    seed: int
    tokens: int = 0
    checks: int = 0
    masks: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    forward_cpu_s: float = 0.0
    sampling_cpu_s: float = 0.0
    log_z: float = -math.inf
    ess: float = 0.0
    error: str = ""

    @property
    def outcome(self) -> str:
        return "crashed" if self.error else "answered" if math.isfinite(self.log_z) else "dead"

    def cpu_us(self, part: str) -> float:
        """CPU time of a part of the run, in microseconds per token and particle."""
        seconds = {
            "end to end": self.cpu_s,
            "forward": self.forward_cpu_s,
            "beside forward": self.cpu_s - self.forward_cpu_s,
            "sampling": self.sampling_cpu_s,
        }[part]
        return 1e6 * seconds / max(self.tokens, 1)


# The two sides


class Reference:
    """genlm-control, in a process that stays for many runs and is started anew when one kills it or takes too long."""

    def __init__(self, model: Path, threads: int, timeout_s: float) -> None:
        self._command = [str(PYTHON), "-m", "bench.reference.genlm_run", "--serve"]
        # Both sides with the dtype that ours has by default: the weights' own, or float32 where bfloat16 would be emulated.
        self._command += ["--model", str(model), "--threads", str(threads), "--dtype", engine_defaults()["dtype"]]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as this object
        self.name = REFERENCE

    def run(self, task: Task, particles: int, seed: int) -> Run:
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"task": task.name, "particles": particles, "seed": seed}) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=self._timeout_s)
        except Empty:
            self.close()
            return Run(seed, wall_s=self._timeout_s, error=f"no answer within {self._timeout_s:.0f} s")
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            return Run(seed, error=f"the process died: {self._last_words()}")
        record = json.loads(line)
        self.name = record["engine"]
        if math.isnan(record.get("log_z", 0.0)):
            record["error"] = "log Z is NaN"
        return Run(**{name: record[name] for name in Run.__dataclass_fields__.keys() & record.keys()})

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        process = self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, text=True
        )
        lines = self._lines = SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    lines.put(line)
            lines.put("")

        Thread(target=read, daemon=True).start()
        return process

    def _last_words(self) -> str:
        self._complaints.seek(0)
        lines = [line.strip() for line in self._complaints if line.strip()]
        return lines[-1] if lines else "it said nothing"


class Ours:
    """reweigh's engine with its defaults, metered inside."""

    def __init__(self) -> None:
        from decoding.engine import Engine
        from decoding.groups import Group
        from decoding.row_sampler import RowSampler

        self.forward, self.sampling = Meter(), Meter()
        # A forked particle's constraint is caught up in `add`; `commit` is the SMC decision of a whole group.
        RowSampler.add = self.sampling.around(RowSampler.add)
        RowSampler.step = self.sampling.around(RowSampler.step)
        Group.commit = self.sampling.around(Group.commit)
        self.engine = Engine()
        self._in_engine(lambda engine: engine.collective_rpc(self._meter_model))
        self.dtype = str(self.engine._driver.config.model_config.dtype)

    def _meter_model(self, worker: Any) -> None:
        model = worker.model_runner.model
        model.forward = self.forward.around(model.forward)
        model.compute_logits = self.forward.around(model.compute_logits)

    def _in_engine(self, function: Any) -> Any:
        return self.engine._driver.call(function)

    def run(self, task: Task, particles: int, seed: int, sampler: str) -> Run:
        constraint = {name: getattr(task, name) for name in ("regex", "json_schema", "lark") if getattr(task, name)}
        self._in_engine(lambda engine: engine.reset_prefix_cache())
        forward, sampling = self.forward.cpu_s, self.sampling.cpu_s
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            # A list of prompts: a dead run is then a result, not an exception.
            result = self.engine.generate(
                [task.prompt], particles=particles, max_tokens=task.max_tokens, sampler=sampler, seed=seed, **constraint
            )[0]
        except Exception as error:
            return Run(seed, error=f"{type(error).__name__}: {error}")
        return Run(
            seed=seed,
            tokens=result.stats.sampled_tokens,
            checks=result.stats.checks,
            masks=result.stats.masks,
            wall_s=time.perf_counter() - wall,
            cpu_s=time.process_time() - cpu,
            forward_cpu_s=self.forward.cpu_s - forward,
            sampling_cpu_s=self.sampling.cpu_s - sampling,
            log_z=result.log_z,
            ess=result.ess,
            error="" if result.error is None or result.log_z == -math.inf else str(result.error),
        )

    def close(self) -> None:
        self.engine.close()


# What the runs say


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """One side's runs of one task at one N. Times are medians over the runs that drew to the end; log Z over the finite."""
    whole = [run for run in runs if not run.error]
    answered = [run.log_z for run in runs if run.outcome == "answered"]
    parts = ("end to end", "forward", "beside forward", "sampling")
    return {
        "runs": len(runs),
        **Counter(run.outcome for run in runs),
        "cpu_us": {part: _median([run.cpu_us(part) for run in whole]) for part in parts},
        "wall_us": _median([1e6 * run.wall_s / max(run.tokens, 1) for run in whole]),
        "tokens": _median([run.tokens for run in whole]),
        "checks_per_token": _median([run.checks / max(run.tokens, 1) for run in whole]),
        "masks_per_token": _median([run.masks / max(run.tokens, 1) for run in whole]),
        "ess": _median([run.ess for run in whole]),
        "log_z": statistics.fmean(answered) if answered else None,
        "log_z_se": statistics.stdev(answered) / math.sqrt(len(answered)) if len(answered) > 1 else None,
        "log_z_spread": statistics.stdev(answered) if len(answered) > 1 else None,
        "errors": sorted({run.error for run in runs if run.error}),
    }


def ratios(reference: Sequence[Run], ours: Sequence[Run]) -> dict[str, float | None]:
    """Medians over seeds of reference / ours, of the seeds that neither side crashed on."""
    pairs = [(a, b) for a, b in zip(reference, ours, strict=True) if not a.error and not b.error]
    return {
        **{
            part: _median([a.cpu_us(part) / b.cpu_us(part) for a, b in pairs])
            for part in ("end to end", "beside forward", "sampling")
        },
        "limit": _median([a.cpu_us("end to end") / b.cpu_us("forward") for a, b in pairs]),
        "wall": _median([(a.wall_s / a.tokens) / (b.wall_s / b.tokens) for a, b in pairs]),
    }


def disagreement(first: Sequence[float], second: Sequence[float]) -> float:
    """How far apart two samples' means of Z are, in standard errors of the difference.

    As few runs leave the standard error itself uncertain, Welch's t is given as the normal deviate that is as unlikely.

    first, second  log Z of each run; -inf counts as Z = 0. At least two of each
    """
    largest = max(*first, *second)
    if largest == -math.inf:
        return 0.0
    a, b = np.exp(np.array(first) - largest), np.exp(np.array(second) - largest)
    errors = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if sum(errors) == 0.0:
        return 0.0 if a.mean() == b.mean() else math.inf
    t = abs(a.mean() - b.mean()) / math.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / (len(a) - 1) + errors[1] ** 2 / (len(b) - 1))
    return float(stats.norm.isf(stats.t.sf(t, freedom)))


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


# The comparison


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all if none is named")
    parser.add_argument("--particles", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--seeds", type=int, default=5, help="runs of each task, N and side")
    parser.add_argument("--hard-seeds", type=int, default=3, help="the same of the hard tasks")
    parser.add_argument("--samplers", nargs="+", default=["auto", "awrs"])
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--timeout-s", type=float, default=180.0, help="of one run of the reference")
    options = parser.parse_args()
    unknown = set(options.tasks) - set(TASKS)
    if unknown:
        parser.error(f"unknown tasks {', '.join(sorted(unknown))}: choose from {', '.join(TASKS)}")
    if not PYTHON.exists():
        parser.error(f"the reference's environment is missing: {REMEDY}")
    # Read by OpenMP as torch loads it, on either side.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)

    from decoding.embedded_model import embedded_model_path

    tasks = [TASKS[name] for name in options.tasks or TASKS]
    reference = Reference(embedded_model_path(), options.threads, options.timeout_s)
    first = reference.run(tasks[0], 1, 0)
    if "process died" in first.error:
        parser.exit(2, f"error: the reference did not start ({first.error}): {REMEDY}\n")
    ours = Ours()
    settings = {
        "reference": reference.name,
        "threads": options.threads,
        "dtype": ours.dtype,
        "load_1min": os.getloadavg()[0],
    }
    runs: dict[tuple[str, int], dict[str, list[Run]]] = {}
    try:
        for task in tasks:
            _warm_up(task, reference, ours, options.samplers)
            seeds = options.hard_seeds if task.hard else options.seeds
            for particles in options.particles:
                sides = runs[task.name, particles] = _take_turns(
                    task, particles, seeds, reference, ours, options.samplers
                )
                _show(task, particles, sides)
                report("reference", {**settings, "task": task.name, "particles": particles}, _results(sides))
    finally:
        reference.close()
        ours.close()
    apart = inconsistencies(tasks, runs, options.samplers)
    goals = {sampler: verdicts(runs, sampler) for sampler in options.samplers}
    report("reference: verdict", settings, {"goals": goals, "log_z_sigmas": apart})
    return 1 if any(sigmas > ALLOWED_SIGMAS for sigmas in apart.values()) else 0


def _warm_up(task: Task, reference: Reference, ours: Ours, samplers: Sequence[str]) -> None:
    """Each side compiles the constraint and has met it once."""
    reference.run(task, 1, 1000)
    for sampler in samplers:
        ours.run(task, 1, 1000, sampler)


def _take_turns(
    task: Task, particles: int, seeds: int, reference: Reference, ours: Ours, samplers: Sequence[str]
) -> dict[str, list[Run]]:
    sides: dict[str, list[Run]] = {side: [] for side in (REFERENCE, *samplers)}
    for seed in range(seeds):
        sides[REFERENCE].append(reference.run(task, particles, seed))
        for sampler in samplers:
            sides[sampler].append(ours.run(task, particles, seed, sampler))
    return sides


def _results(sides: dict[str, list[Run]]) -> dict[str, Any]:
    return {
        side: {
            **summary(runs),
            **({} if side == REFERENCE else {"ratios": ratios(sides[REFERENCE], runs)}),
            "each": [asdict(run) | {"log_z": run.log_z if math.isfinite(run.log_z) else None} for run in runs],
        }
        for side, runs in sides.items()
    }


def inconsistencies(
    tasks: Sequence[Task], runs: dict[tuple[str, int], dict[str, list[Run]]], samplers: Sequence[str]
) -> dict[str, float]:
    """Disagreement of Z, in standard errors, of every two sides that read a task alike: our samplers do so always."""
    apart = {}
    for task in tasks:
        if task.hard:
            continue
        of_task = [sides for (name, _), sides in runs.items() if name == task.name]
        log_z = {
            side: [run.log_z for sides in of_task for run in sides[side] if not run.error]
            for side in (REFERENCE, *samplers)
        }
        for one, other in combinations(log_z, 2):
            if (one == REFERENCE and task.kind == "JSON") or min(len(log_z[one]), len(log_z[other])) < 2:
                continue
            sigmas = apart[f"{task.name}: {one}, {other}"] = disagreement(log_z[one], log_z[other])
            verdict = "INCONSISTENT" if sigmas > ALLOWED_SIGMAS else "agree"
            say(f"Z of {task.name} by {one} and {other}: {sigmas:.1f} standard errors apart: {verdict}")
    return apart


def verdicts(runs: dict[tuple[str, int], dict[str, list[Run]]], sampler: str) -> dict[str, Any]:
    """Every goal at N = 10 with the figure of each task: met when all of them are."""
    at_goal = {name: sides for (name, particles), sides in runs.items() if particles == GOAL_PARTICLES}
    usual = {name: ratios(sides[REFERENCE], sides[sampler]) for name, sides in at_goal.items() if not TASKS[name].hard}

    def ratio(part: str, kind: str) -> dict[str, float | None]:
        return {name: by[part] for name, by in usual.items() if TASKS[name].kind == kind}

    goals: list[tuple[str, dict[str, Any], Callable[[float], bool]]] = []
    for kind, wanted in END_TO_END_GOAL.items():
        goals.append((f"end to end >= {wanted:g}x on {kind}", ratio("end to end", kind), partial(operator.le, wanted)))
    for kind in END_TO_END_GOAL:
        name = f"beside the forward >= {BESIDE_GOAL:g}x on {kind}"
        goals.append((name, ratio("beside forward", kind), partial(operator.le, BESIDE_GOAL)))
    spreads = {name: _spread_ratio(at_goal[name], sampler) for name in usual if TASKS[name].kind != "JSON"}
    goals.append(("spread of log Z below the reference's", spreads, partial(operator.gt, 1.0)))
    lost = {name: sum(run.outcome != "answered" for run in sides[sampler]) for name, sides in at_goal.items()}
    goals.append(("no run of ours dead or crashed", lost, partial(operator.eq, 0)))
    reached_or_not = {}
    for goal, figures, reached in goals:
        if figures:
            met = all(figure is not None and reached(figure) for figure in figures.values())
            shown = ", ".join(f"{name} {_short(figure)}" for name, figure in figures.items())
            say(f"{sampler:5s} {'met    ' if met else 'NOT met'}  {goal}: {shown}")
            reached_or_not[goal] = {"met": met, **figures}
    return reached_or_not


def _spread_ratio(sides: dict[str, list[Run]], sampler: str) -> float | None:
    theirs, mine = summary(sides[REFERENCE])["log_z_spread"], summary(sides[sampler])["log_z_spread"]
    return mine / theirs if theirs and mine is not None else None


def _show(task: Task, particles: int, sides: dict[str, list[Run]]) -> None:
    say(f"\n{task.name}, N = {particles}: CPU us per token and particle")
    say(
        f"  {'':6s}{'end to end':>12s}{'beside fwd':>12s}{'sampling':>12s}{'checks':>8s}{'masks':>7s}"
        f"{'log Z':>9s}{'+-':>6s}{'spread':>8s}  answered/dead/crashed   ratios: end to end (limit), beside, sampling, wall"
    )
    for side, runs in sides.items():
        of = summary(runs)
        cpu = of["cpu_us"]
        line = f"  {side:6s}" + "".join(
            f"{_short(cpu[part]):>12s}" for part in ("end to end", "beside forward", "sampling")
        )
        line += f"{_short(of['checks_per_token']):>8s}{_short(of['masks_per_token']):>7s}"
        line += f"{_short(of['log_z']):>9s}{_short(of['log_z_se']):>6s}{_short(of['log_z_spread']):>8s}"
        line += "  " + "/".join(str(of.get(outcome, 0)) for outcome in ("answered", "dead", "crashed")).ljust(22)
        if side != REFERENCE:
            by = ratios(sides[REFERENCE], runs)
            line += f"  {_short(by['end to end'])}x ({_short(by['limit'])}x)" + "".join(
                f", {_short(by[part])}x" for part in ("beside forward", "sampling", "wall")
            )
        say(line)
        for error in of["errors"]:
            say(f"         {error[:160]}")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
