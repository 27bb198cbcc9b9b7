"""`reweigh calibrate`: how many samples, at which selection temperature? From a pool of judged candidates; no model is asked."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cli_errors import OK, UsageError
from server.cli_output import as_line, emit, note, table

if TYPE_CHECKING:
    from samplers.inference_scaling_choice import Calibration, LawCheck, Recommendation
    from samplers.inference_scaling_pool import Judged

TEMPERATURES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
K_MAX = 64
VERSION = 1
PICTURES = (".png", ".svg")

ABOUT = """\
How many samples is a question worth, and how greedily should the judge's best be taken? Reads a stored pool of judged
candidates and says what selection among k of them gives at each temperature. No model is asked."""

MORE = """\
examples:
  reweigh calibrate --pool scores.jsonl
  reweigh calibrate --pool scores.jsonl --plot curves.svg --save profile.json
  zcat scores.jsonl.gz | reweigh calibrate --pool - --json | jq .recommendation

a line of the pool, one candidate; those of one prompt may stand anywhere:
  {"prompt": "2 + 2?", "candidate": "4", "reward": 0.9, "correct": 1, "tokens": 3}
  correct  1 or 0, true or false, or any number: what the answer is worth
  tokens   what it cost; on every line or on none

Rewards are normalised: for each prompt minus their mean, divided by their standard deviation; where all are equal,
selection is by chance. A temperature is thus in standard deviations; T=0 takes the highest reward, ties by chance.
Curves are exact means over all k-subsets of each prompt's candidates, k up to the smallest prompt's number (64 at most
without --k-max). Intervals are 95 % bootstraps over prompts. Recommended is the cheapest k whose value is behind
the best one by no more than one standard error of that difference, over the prompts.

rho       n Σw²/(Σw)² of w = exp(r/T), the median of the prompts whose rewards differ: the 1/k law holds once k is some
          10 rho (~ marks those below)
halving   what k -> inf gains when T is halved: positive where more samples help at this T, negative where they hurt

keys of --json (version 1): version, pool, normalisation, k, curves (temperature; mean, low, high for each k), pass_at_k,
laws (one for each T > 0), recommendation, verdict, seed.
--save writes {"reweigh_profile": 1, "k", "temperature", "normalisation", "evidence"}: what generate(profile=FILE) reads, and a
request's reweigh.best_of.profile carries."""


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--pool", required=True, metavar="FILE", help="JSON lines as below; - is stdin")
    command.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    command.add_argument("--plot", metavar="FILE", help="write the curves as FILE.png or FILE.svg (reweigh[plot])")
    command.add_argument("--save", metavar="FILE", help="write the recommended k and T as a profile")
    command.add_argument("--k-max", type=int, metavar="N", help="the largest k (default: 64, or what the pool has)")
    command.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        metavar="T",
        default=list(TEMPERATURES),
        help="in standard deviations of a prompt's rewards (default " + " ".join(f"{t:g}" for t in TEMPERATURES) + ")",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default 0)")
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(options: argparse.Namespace) -> int:
    temperatures = _temperatures(options.temperatures)
    if options.k_max is not None and options.k_max < 2:
        raise UsageError(f"--k-max {options.k_max}: at least 2 was wanted")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: a whole number of at least 0 was wanted")
    if options.plot is not None:
        _check_plot(options.plot)
    if options.save is not None:
        _check_folder("--save", options.save)
    from server.cli_calibrate_pool import read_pool

    pool = read_pool(options.pool, (lambda text: None) if options.quiet else note)
    if len(pool) < 2:
        raise UsageError(f"--pool {options.pool}: one prompt; at least 2 were wanted, intervals are over prompts")
    calibration = _measured(pool, temperatures, options)
    from samplers.inference_scaling_choice import typical_spread, value_as_used

    chosen = calibration.recommend()
    scale = typical_spread(pool)
    used = value_as_used(pool, chosen.k, chosen.temperature * scale)
    laws = [calibration.law(temperature) for temperature in temperatures if temperature > 0]
    found = _envelope(pool, calibration, laws, chosen, scale, used, options.seed)
    if options.as_json:
        emit(as_line(found))
    else:
        for line in _lines(found, calibration, laws, chosen):
            emit(line)
    if options.save is not None:
        _save(options.save, chosen, scale, found)
    if options.plot is not None:
        from server.cli_calibrate_plot import draw

        draw(calibration, laws, chosen, Path(options.plot))
        note(f"reweigh: wrote {options.plot}")
    return OK


def _temperatures(given: list[float]) -> list[float]:
    for temperature in given:
        if not 0 <= temperature < math.inf:
            raise UsageError(f"--temperatures {temperature:g}: finite numbers of at least 0 were wanted")
    return sorted(set(given))


def _check_plot(path: str) -> None:
    """Before minutes of work: can the picture be written?"""
    if Path(path).suffix.lower() not in PICTURES:
        raise UsageError(f"--plot {path}: a name that ends in {' or '.join(PICTURES)} was wanted")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, which is not installed: pip install 'reweigh[plot]'")
    _check_folder("--plot", path)


def _check_folder(option: str, path: str) -> None:
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no such folder")


def _measured(pool: list[Judged], temperatures: list[float], options: argparse.Namespace) -> Calibration:
    import numpy as np

    from samplers.inference_scaling_choice import Calibration, curves_of
    from samplers.inference_scaling_pool import sizes

    counts = np.array([len(one.rewards) for one in pool])
    fewest = int(counts.argmin())
    if options.k_max is not None and options.k_max > counts[fewest]:
        raise UsageError(
            f"--k-max {options.k_max}: the prompt {pool[fewest].prompt!r:.60} has {counts[fewest]} candidates; "
            "curves need k of every prompt"
        )
    ks = sizes(int(counts[fewest]), options.k_max or K_MAX)
    curves, said = [], time.monotonic()
    for done, one in enumerate(pool, start=1):
        curves.append(curves_of(one, ks, temperatures))
        if not options.quiet and time.monotonic() - said > 2.0:
            said = time.monotonic()
            note(f"reweigh: curves of {done} of {len(pool)} prompts")
    known = pool[0].tokens is not None
    tokens = np.array([one.tokens.mean() for one in pool if one.tokens is not None]) if known else None
    return Calibration(ks, temperatures, curves, counts, tokens, np.random.default_rng(options.seed))


def _envelope(
    pool: list[Judged],
    calibration: Calibration,
    laws: list[LawCheck],
    chosen: Recommendation,
    scale: float,
    used: float,
    seed: int,
) -> dict[str, Any]:
    curves = []
    for temperature in calibration.temperatures:
        low, high = calibration.band(temperature)
        mean = calibration.mean(temperature)
        curves.append({"temperature": temperature, "mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()})
    recommendation = asdict(chosen)
    verdict = recommendation.pop("verdict")
    return {
        "version": VERSION,
        "pool": {
            "prompts": len(pool),
            "candidates": int(calibration.sizes.sum()),
            "fewest": int(calibration.sizes.min()),
            "most": int(calibration.sizes.max()),
            "constant_rewards": sum(one.spread == 0 for one in pool),
        },
        "normalisation": {"method": "prompt_sd", "typical_sd": scale},
        "k": calibration.ks.tolist(),
        "curves": curves,
        "pass_at_k": None if calibration.pass_at_k is None else calibration.pass_at_k.tolist(),
        "laws": [asdict(law) for law in laws],
        "recommendation": recommendation
        | {"select_temperature": chosen.temperature * scale, "value_at_select_temperature": used},
        "verdict": verdict,
        "seed": seed,
    }


def _lines(found: dict[str, Any], calibration: Calibration, laws: list[LawCheck], chosen: Recommendation) -> list[str]:
    pool = found["pool"]
    counts = f"{pool['fewest']}" if pool["fewest"] == pool["most"] else f"{pool['fewest']} to {pool['most']}"
    constant = f"; {pool['constant_rewards']} with rewards all equal" if pool["constant_rewards"] else ""
    lines = [f"{pool['prompts']} prompts of {counts} candidates{constant}", "", "value of the selected of k", ""]
    ks, last = calibration.ks.tolist(), int(calibration.ks[-1])
    shown = [k for k in ks if k & (k - 1) == 0 or k in (last, chosen.k)]
    at = [ks.index(k) for k in shown]
    rows = [["k", *(f"T={t:g}" for t in calibration.temperatures), *(["pass@k"] if found["pass_at_k"] else [])]]
    means = [calibration.mean(t) for t in calibration.temperatures]
    if found["pass_at_k"]:
        means.append(calibration.pass_at_k)  # type: ignore[arg-type]
    for k, column in zip(shown, at):
        rows.append([f"{k}", *(f"{mean[column]:.3f}" for mean in means)])
    lines += table(rows, right=frozenset(range(len(rows[0]))))
    if laws:
        lines += ["", "the 1/k law", ""]
        rows = [["T", "rho", "k->inf", "halving T", "95 %", "k", "predicted", "measured"]]
        rows += [
            [
                f"{law.temperature:g}",
                f"{law.rho:.2f}",
                f"{law.limit:.3f}",
                f"{law.halving.mean:+.3f}",
                f"{law.halving.low:+.3f} to {law.halving.high:+.3f}",
                f"{law.k}" if law.reliable else f"~{law.k}",
                f"{law.predicted:.3f}",
                f"{law.measured:.3f}",
            ]
            for law in laws
        ]
        lines += table(rows, right=frozenset(range(8)))
    value, gain = chosen.value, chosen.gain
    lines += ["", f"recommended  k={chosen.k}, T={chosen.temperature:g} ({_units(found)})"]
    lines += [
        f"value        {value.mean:.3f} ({value.low:.3f} to {value.high:.3f}); at k=1 {chosen.plain:.3f}; "
        f"gain {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
    ]
    if chosen.tokens is not None:
        each = "" if chosen.tokens_per_gain is None else f"; {chosen.tokens_per_gain:,.0f} more for each unit gained"
        lines += [f"price        {chosen.tokens:,.0f} tokens a prompt{each}"]
    return [*lines, "", f"verdict: {chosen.verdict}"]


def _units(found: dict[str, Any]) -> str:
    chosen = found["recommendation"]
    if chosen["temperature"] == 0:
        return "the highest reward"
    return (
        f"select_temperature {chosen['select_temperature']:.4g} in units of the reward, "
        f"value {chosen['value_at_select_temperature']:.3f}"
    )


def _save(path: str, chosen: Recommendation, scale: float, found: dict[str, Any]) -> None:
    from samplers.inference_scaling_profile import Profile, dumped

    evidence = {
        "prompts": found["pool"]["prompts"],
        "candidates": found["pool"]["candidates"],
        "value": asdict(chosen.value),
        "value_at_select_temperature": found["recommendation"]["value_at_select_temperature"],
        "plain": chosen.plain,
        "gain": asdict(chosen.gain),
        "tokens": chosen.tokens,
        "verdict": chosen.verdict,
    }
    try:
        Path(path).write_text(dumped(Profile(chosen.k, chosen.temperature, scale, evidence)), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--save {path}: {error.strerror}; give a file that can be written") from error
    note(f"reweigh: wrote {path}")
