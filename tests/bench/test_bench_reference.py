"""What the comparison with the reference implementation concludes from its runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import bench_reference
from bench.bench_reference import (
    ALLOWED_SIGMAS,
    Reference,
    Run,
    disagreement,
    inconsistencies,
    ratios,
    summary,
    verdicts,
)
from bench.tasks import TASKS

ALARM = 6.3e-5  # the chance of a normal deviate beyond 4


def log_z_of(spread: float, runs: int, rng: np.random.Generator) -> np.ndarray:
    """log Z of runs whose Z has mean 1."""
    return spread * rng.standard_normal(runs) - spread**2 / 2


def test_runs_of_one_mean_seldom_disagree_however_unequal_their_spreads():
    """Ten runs a side, two thousand times; a binomial of 2000 * 6.3e-5 exceeds 4 with a chance below 1e-6."""
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(2000):
        alarms += disagreement(log_z_of(0.3, 10, rng), log_z_of(0.1, 10, rng)) > ALLOWED_SIGMAS
    assert alarms <= 4


def test_a_bias_is_found():
    rng = np.random.default_rng(4)
    assert disagreement(log_z_of(0.2, 10, rng) + 1.0, log_z_of(0.2, 10, rng)) > ALLOWED_SIGMAS


def test_dead_runs_count_as_no_mass():
    assert disagreement([-math.inf] * 3, [-math.inf] * 3) == 0.0
    assert disagreement([-1.0, -math.inf, -1.0, -math.inf], [-1.0 - math.log(2)] * 4) == pytest.approx(0.0, abs=1e-9)


def test_a_crashed_run_is_counted_and_timed_nowhere():
    runs = [
        Run(0, tokens=10, cpu_s=1e-3, forward_cpu_s=4e-4, log_z=-1.0),
        Run(1, tokens=1, cpu_s=9.0, error="KeyError: 3"),
        Run(2, tokens=10, cpu_s=1e-3, forward_cpu_s=4e-4),
    ]
    of = summary(runs)
    assert (of["answered"], of["crashed"], of["dead"]) == (1, 1, 1)
    assert of["cpu_us"]["end to end"] == pytest.approx(100) and of["cpu_us"]["beside forward"] == pytest.approx(60)
    assert of["log_z"] == -1.0 and of["errors"] == ["KeyError: 3"]


def test_ratios_pair_the_seeds_and_leave_out_those_that_crashed():
    theirs = [Run(0, tokens=10, cpu_s=2.0, wall_s=2.0, log_z=0.0), Run(1, tokens=1, cpu_s=1.0, error="it crashed")]
    mine = [
        Run(seed, tokens=5, cpu_s=0.5, forward_cpu_s=0.4, sampling_cpu_s=0.05, wall_s=0.5, log_z=0.0) for seed in (0, 1)
    ]
    of = ratios(theirs, mine)
    assert of["end to end"] == pytest.approx(2.0) and of["beside forward"] == pytest.approx(10.0)
    assert of["limit"] == pytest.approx(2.5) and of["wall"] == pytest.approx(2.0)


def test_goals_are_met_by_all_tasks_or_not_at_all():
    def run(cpu_s: float, log_z: float) -> Run:
        return Run(0, tokens=10, cpu_s=cpu_s, forward_cpu_s=0.9 * cpu_s, sampling_cpu_s=1e-2, wall_s=cpu_s, log_z=log_z)

    theirs = [run(4.0, -1.0), run(4.0, -2.0)]
    runs = {
        ("date", 10): {"genlm": theirs, "auto": [run(1.0, -1.4), run(1.0, -1.5)]},
        ("ipv4", 10): {"genlm": theirs, "auto": [run(2.0, -1.4), run(2.0, -1.5)]},
        ("sql", 10): {"genlm": theirs, "auto": [run(0.1, -1.4), run(0.1, -math.inf)]},
        ("json-zero-shot", 10): {"genlm": [run(4.0, -math.inf)], "auto": [run(1.0, -40.0)]},
    }
    goals = verdicts(runs, "auto")
    assert goals["end to end >= 3x on regex"] == {"met": False, "date": 4.0, "ipv4": 2.0}
    assert goals["end to end >= 10x on SQL"] == {"met": True, "sql": pytest.approx(40.0)}
    assert goals["no run of ours dead or crashed"] == {
        "met": False,
        "date": 0,
        "ipv4": 0,
        "sql": 1,
        "json-zero-shot": 0,
    }
    assert goals["spread of log Z below the reference's"]["date"] == pytest.approx(0.1)
    assert not any("JSON" in goal for goal in goals)


def test_z_is_compared_over_every_n_where_two_sides_read_the_same_language():
    def twice(log_z: float) -> list[Run]:
        return [Run(0, log_z=log_z), Run(1, log_z=log_z - 0.1)]

    runs = {
        (name, particles): {"genlm": twice(-1.0), "auto": twice(z), "awrs": twice(z)}
        for name in ("date", "json-user", "mac-adverse")
        for particles, z in ((5, -9.0), (10, -9.1))
    }
    apart = inconsistencies([TASKS[name] for name in ("date", "json-user", "mac-adverse")], runs, ["auto", "awrs"])
    assert list(apart) == ["date: genlm, auto", "date: genlm, awrs", "date: auto, awrs", "json-user: auto, awrs"]
    assert [sigmas > ALLOWED_SIGMAS for sigmas in apart.values()] == [True, True, False, False]


def test_a_reference_that_cannot_start_or_takes_too_long_is_a_crash_that_says_why(monkeypatch, tmp_path):
    stub = tmp_path / "python"
    monkeypatch.setattr(bench_reference, "PYTHON", stub)

    def run(script: str, timeout_s: float) -> str:
        stub.write_text(f"#!/bin/sh\n{script}\n")
        stub.chmod(0o755)
        reference = Reference(tmp_path, 1, timeout_s)
        try:
            return reference.run(TASKS["date"], 1, 0).error
        finally:
            reference.close()

    assert "No module named genlm" in run("echo 'No module named genlm' >&2; exit 1", 60.0)
    assert "no answer within" in run("exec sleep 60", 0.2)
