"""Whose text is less toxic, at what price? One harness, the same prompts, one judge that steers nobody.

    python -m bench.bench_detox [--prompts 40] [--samples 10] [--arms served,plain] [--fresh]     toxicity, perplexity, a plot
    python -m bench.bench_detox --speed [--rows 8 32]                                             tokens/s beside plain decoding

Prompts are RealToxicityPrompts, half of them toxic; continuations of 20 tokens, top-p .9, temperature 1. The judge
(bench/toxicity_judge.py) reads the continuation alone, and is none of the signals. Perplexity is the base model's, of all tokens.
CPU seconds are those of the process, every thread; baselines and UDDIA run in torch with a KV cache in batches of 32, the
others in vLLM: their tokens/s say what each costs here, not what it would cost in another engine.
`fitted` arms steer by the signal that `fit_signal` learns from the scored texts, which the anti-expert is trained on too, and none
of which is evaluated on; the others by `profanity`. What an arm wrote is kept in bench/results/detox, so that arms can be added
without running the others again, and so is what the judge said of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.harness import DATA, RESULTS, ROOT, in_turn, ratio, report, say, spread
from decoding import Engine
from samplers.posterior import draw_one
from samplers.randomness import derive_seed

TOKENS, TOP_P = 20, 0.9
FOLDER = RESULTS / "detox"
# Steering as far as it goes: every token is looked at, and may cost what it takes.
FREELY = {"gate": 0.0, "budget": 40.0}
Texts = list[list[str]]


@dataclass(frozen=True)
class Written:
    """What an arm wrote. texts [P][S]; cpu_s: of the process; tokens drawn for them; kl: mean nats a text, where it is known."""

    texts: Texts
    cpu_s: float
    tokens: int
    kl: float | None


def prompts_of(count: int) -> list[list[str]]:
    """Toxic and other prompts, count / 2 each."""
    path = DATA / "toxicity" / "prompts.jsonl"
    if not path.is_file():
        raise SystemExit(
            f"{path} is not there: put the test data beside the checkout, or name its folder in REWEIGH_DATA"
        )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    half = count // 2
    return [[row["prompt"] for row in rows if row["toxic_prompt"] is toxic][:half] for toxic in (True, False)]


def served(engine: Engine, prompts: Sequence[str], samples: int, seed: int, **options: Any) -> Written:
    """Each sample one particle: a draw from the steered law."""
    began = time.process_time()
    results = engine.generate(
        [prompt for prompt in prompts for _ in range(samples)],
        **{"particles": 1, "max_tokens": TOKENS, "truncate": True, "top_p": TOP_P, "seed": seed, **options},
    )
    spent = time.process_time() - began
    texts = [result.texts[0] for result in results]
    steered = [result.adaptation.kl[0] for result in results if result.adaptation is not None]
    return Written(
        [texts[k : k + samples] for k in range(0, len(texts), samples)],
        spent,
        sum(result.usage.sampled_tokens for result in results),
        float(np.mean(steered)) if steered else None,
    )


def served_smc(
    engine: Engine, prompts: Sequence[str], samples: int, seed: int, particles: int, **options: Any
) -> Written:
    """Each sample one text of a group of particles, drawn by the weights: a draw from the target, nearly."""
    began = time.process_time()
    results = engine.generate(
        [prompt for prompt in prompts for _ in range(samples)],
        **{"particles": particles, "max_tokens": TOKENS, "truncate": True, "top_p": TOP_P, "seed": seed, **options},
    )
    texts, steered = [], []
    for result in results:
        chosen = draw_one(result.log_weights, result.seed)
        chosen = 0 if chosen is None else chosen
        texts.append(result.texts[chosen])
        if result.adaptation is not None:
            steered.append(result.adaptation.kl[chosen])
    return Written(
        [texts[k : k + samples] for k in range(0, len(texts), samples)],
        time.process_time() - began,
        sum(result.usage.sampled_tokens for result in results),
        float(np.mean(steered)) if steered else None,
    )


def best_of_k(
    engine: Engine, prompts: Sequence[str], samples: int, seed: int, k: int, by: str = "profanity", **options: Any
) -> Written:
    """Of k texts the one that a steering signal likes best."""
    from decoding.adaptation.signals import signal_named

    plain = served(engine, prompts, samples * k, seed, **options)
    signal = signal_named(by)
    texts = []
    for some in plain.texts:
        odds = signal.log_odds(some)
        texts.append([some[n * k + int(np.argmin(odds[n * k : (n + 1) * k]))] for n in range(samples)])
    return Written(texts, plain.cpu_s, plain.tokens, None)


def uddia(kind: str, prompts: Sequence[str], samples: int, seed: int) -> Written:
    """The paper's method on the same model: t detoxifies, b debiases, u does both."""
    from bench.uddia_arm import uddia_of

    method = uddia_of(kind)
    began = time.process_time()
    results = method.generate(list(prompts), TOKENS, seed, samples)
    texts = [result.text for result in results]
    return Written(
        [texts[k : k + samples] for k in range(0, len(texts), samples)],
        time.process_time() - began,
        sum(len(result.log_p) for result in results),
        float(np.mean([result.kl_fused.sum() for result in results])),
    )


def baseline(name: str, prompts: Sequence[str], samples: int, seed: int) -> Written:
    from bench.detox_baselines import ARMS

    began = time.process_time()
    texts = ARMS[name](prompts, samples, seed)
    spent = time.process_time() - began
    return Written(texts, spent, len(prompts) * samples * TOKENS, None)


Arm = Callable[[Sequence[str], int, int], Written]


def arms_of(engine: Callable[[], Engine]) -> dict[str, Arm]:
    """Every arm by name; the engine is started by the first that needs it."""
    from bench.detox_baselines import ARMS

    def ours(function: Callable[..., Written], **options: Any) -> Arm:
        return lambda prompts, samples, seed: function(engine(), prompts, samples, seed, **options)

    def fitted(function: Callable[..., Written], **options: Any) -> Arm:
        def arm(prompts: Sequence[str], samples: int, seed: int) -> Written:
            signal = str(fitted_signal())
            own = (
                {"by": signal}
                if function is best_of_k
                else {"adaptation": {"signal": signal, **options.get("adaptation", {})}}
            )
            return function(engine(), prompts, samples, seed, **options | own)

        return arm

    arms: dict[str, Arm] = {"plain": ours(served)}
    for strength in (0.25, 1.0, 3.0, 10.0):
        arms[f"served detox {strength:g}"] = ours(served, detox=strength)
    for method in ("offset", "both"):
        arms[f"served detox 1, {method}"] = ours(served, detox=1.0, adaptation={"method": method})
    arms["served debias"] = ours(served, debias=["gender"])
    arms["served both"] = ours(served, detox=1.0, debias=["gender"])
    for strength in (1.0, 3.0, 10.0):
        arms[f"served detox {strength:g}, SMC of 4"] = ours(served_smc, particles=4, detox=strength)
    arms["served both, SMC of 4"] = ours(served_smc, particles=4, detox=1.0, debias=["gender"])
    for strength in (0.75, 1.0, 3.0, 10.0):
        arms[f"served fitted {strength:g}"] = fitted(served, detox=strength)
    arms["served fitted 3 and debias"] = fitted(served, detox=3.0, debias=["gender"])
    for strength, particles in ((1.0, 4), (3.0, 4), (3.0, 8), (10.0, 8)):
        arms[f"served fitted {strength:g}, SMC of {particles}"] = fitted(
            served_smc, particles=particles, detox=strength
        )
    for temperature in (1.0, 0.85, 0.7):
        arms[f"served fitted 10, gate 0, T {temperature:g}"] = fitted(
            served, adaptation=FREELY, detox=10.0, temperature=temperature
        )
        arms[f"served fitted 10, gate 0, SMC of 2, T {temperature:g}"] = fitted(
            served_smc, adaptation=FREELY, particles=2, detox=10.0, temperature=temperature
        )
    arms["served fitted 10, gate 0, SMC of 4, T 0.65"] = fitted(
        served_smc, adaptation=FREELY, particles=4, detox=10.0, temperature=0.65
    )
    for temperature in (0.85, 0.7):
        arms[f"served fitted 10, SMC of 8, T {temperature:g}"] = fitted(
            served_smc, particles=8, detox=10.0, temperature=temperature
        )
        arms[f"served fitted 10, T {temperature:g}"] = fitted(served, detox=10.0, temperature=temperature)
        arms[f"plain, T {temperature:g}"] = ours(served, temperature=temperature)
    arms["best of 4 by the signal"] = ours(best_of_k, k=4)
    for k in (4, 8):
        arms[f"best of {k} by the fitted signal"] = fitted(best_of_k, k=k)
    for temperature in (0.85, 0.7):
        arms[f"best of 8 by the fitted signal, T {temperature:g}"] = fitted(best_of_k, k=8, temperature=temperature)
    for kind in ("t", "b", "u"):
        arms[f"UDDIA-{kind}"] = partial(uddia, kind)
    for name in ARMS:
        arms[name] = partial(baseline, name)
    return arms


def fitted_signal() -> Path:
    """The .npz of a signal fitted on the scored texts from `profanity`, made once; none of the texts is evaluated on."""
    from bench.anti_expert import texts_digest, training_texts
    from decoding.adaptation.fit_signal import fit_signal
    from decoding.adaptation.profanity import profanity

    path = ROOT / ".cache" / "fitted-signal" / f"fitted-{texts_digest()}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        fit_signal(training_texts(), "fitted", profanity()).save(path)
    return path


def written(path: Path, arm: Arm, prompts: Sequence[str], samples: int, fresh: bool) -> Written:
    """What an arm wrote, now or in an earlier run with the same prompts, which is kept at `path`."""
    if path.is_file() and not fresh:
        kept = json.loads(path.read_text())
        return Written(kept["texts"], kept["cpu_s"], kept["tokens"], kept["kl"])
    made = arm(prompts, samples, derive_seed(2210, 4492))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(vars(made)))
    return made


def measure(options: argparse.Namespace) -> None:
    from bench.detox_metrics import BaseModel, figures
    from bench.toxicity_judge import RECIPE, ToxicityJudge

    toxic, other = prompts_of(options.prompts)
    started: list[Engine] = []

    def engine() -> Engine:
        if not started:
            started.append(Engine(max_num_seqs=32, max_model_len=512))
        return started[0]

    arms = arms_of(engine)
    if options.arms:
        unknown = [name for name in options.arms if name not in arms]
        if unknown:
            raise SystemExit(f"no arm {unknown[0]!r}; there are: {'; '.join(arms)}")
        arms = {name: arms[name] for name in arms if name in options.arms}
    key = f"{options.prompts}x{options.samples}"
    judge, model = ToxicityJudge.load(), BaseModel.load()
    results: dict[str, Any] = {}
    for name, arm in tqdm(arms.items(), unit="arm"):
        results[name] = {}
        for kind, prompts in (("toxic", toxic), ("other", other)):
            place = FOLDER / f"{key}-{kind}" / name.replace(" ", "_").replace(",", "")
            part = written(place.with_name(f"{place.name}.json"), arm, prompts, options.samples, options.fresh)
            verdicts = place.with_name(f"{place.name}.judged-{RECIPE}.json")
            if options.fresh or not verdicts.is_file():
                verdicts.write_text(json.dumps(figures(judge, model, prompts, part.texts)))
            told = json.loads(verdicts.read_text())
            results[name][kind] = {**told, "kl": part.kl, "tokens_per_cpu_s": part.tokens / part.cpu_s}
    if started:
        started[0].close()
    table(results)
    report("detox", {"prompts": options.prompts, "samples": options.samples, "tokens": TOKENS, "top_p": TOP_P}, results)
    plot(results)


COLUMNS = (
    ("max", "expected_max_toxicity"), ("prob", "toxicity_probability"), ("share", "toxic_fraction"), ("mean", "mean_toxicity"),
    ("ppl", "perplexity"), ("dist-2", "distinct_2"), ("KL", "kl"), ("tok/s", "tokens_per_cpu_s"),
)  # fmt: skip


def table(results: Mapping[str, Any]) -> None:
    for kind in ("toxic", "other"):
        say(f"\n{kind} prompts".ljust(32) + "".join(head.rjust(8) for head, _ in COLUMNS))
        for name, told in results.items():
            cells = [told[kind][field] for _, field in COLUMNS]
            say(name.ljust(31) + "".join(f"{'' if cell is None else format(cell, '.3g'):>8}" for cell in cells))


def plot(results: Mapping[str, Any]) -> None:
    """Toxicity against perplexity, PNG and SVG: left and down is better."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5))
    for axis, kind in zip(axes, ("toxic", "other")):
        for name, told in results.items():
            x, y = told[kind]["perplexity"], told[kind]["mean_toxicity"]
            colour = (
                "tab:blue"
                if "served" in name
                else "black"
                if name == "plain"
                else "tab:orange"
                if "UDDIA" in name
                else "tab:gray"
            )
            axis.errorbar(x, y, told[kind]["mean_toxicity_se"], fmt="o", color=colour, alpha=0.8)
            axis.annotate(name, (x, y), fontsize=7, xytext=(4, 3), textcoords="offset points")
        axis.set(
            xscale="log", xlabel="perplexity under the base model", ylabel="mean toxicity", title=f"{kind} prompts"
        )
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(RESULTS / f"detox.{kind}", dpi=150)
    plt.close(figure)
    say(f"plots: {RESULTS / 'detox.png'} and .svg")


def speed(options: argparse.Namespace) -> None:
    """Tokens/s of steered decoding relative to reweigh's plain draws and to vLLM's own sampler, with the same top-p."""
    toxic, other = prompts_of(2 * max(options.rows))
    for rows in options.rows:
        with Engine(max_num_seqs=rows, max_model_len=512) as engine:
            for kind, given in (("toxic", toxic), ("other", other)):
                prompts = [given[k % len(given)] for k in range(rows)]

                def ours(prompts: Sequence[str] = prompts, engine: Engine = engine, **own: Any) -> None:
                    served(engine, prompts, 1, 1, **own)

                def vllm(prompts: Sequence[str] = prompts, engine: Engine = engine) -> None:
                    plain_vllm(engine, prompts)

                times = in_turn(
                    {
                        "vLLM": vllm,
                        "plain": ours,
                        "detox": partial(ours, detox=1.0),
                        "fitted": partial(ours, detox=3.0, adaptation={"signal": str(fitted_signal())}),
                        "fitted, gate 0": partial(
                            ours, detox=10.0, adaptation={"signal": str(fitted_signal()), **FREELY}
                        ),
                        "detox, both": partial(ours, detox=1.0, adaptation={"method": "both"}),
                        "debias": partial(ours, debias=["gender"]),
                        "both": partial(ours, detox=1.0, debias=["gender"]),
                    },
                    options.repeats,
                )
                results = {
                    arm: {
                        "s": spread(times[arm]),
                        "speed_vs_plain": ratio(times, arm, "plain"),
                        "speed_vs_vllm": ratio(times, arm, "vLLM"),
                    }
                    for arm in times
                }
                for arm, told in results.items():
                    say(
                        f"{rows} rows, {kind}: {arm:12} {told['speed_vs_plain']:.2f} of plain, {told['speed_vs_vllm']:.2f} of vLLM"
                    )
                report("detox_speed", {"rows": rows, "prompts": kind, "repeats": options.repeats}, results)


def plain_vllm(engine: Engine, prompts: Sequence[str]) -> None:
    """The same texts from vLLM's own sampler, in the same engine."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    params = SamplingParams(temperature=1.0, top_p=TOP_P, max_tokens=TOKENS, ignore_eos=True, detokenize=False)

    def run(vllm: Any) -> None:
        for k, prompt in enumerate(prompts):
            vllm.add_request(f"plain-{k}", tokens_input(engine.tokenizer(prompt)["input_ids"]), params)
        while vllm.has_unfinished_requests():
            vllm.step()

    engine._driver.call(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40, help="half of them toxic")
    parser.add_argument("--samples", type=int, default=10, help="continuations of each")
    parser.add_argument("--arms", type=lambda text: text.split(";"), help="names, separated by ;")
    parser.add_argument("--fresh", action="store_true", help="write everything anew")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rows", type=int, nargs="*", default=[8, 32], help="with --speed")
    parser.add_argument("--repeats", type=int, default=5, help="with --speed")
    options = parser.parse_args()
    if options.prompts < 4 or options.samples < 1:
        parser.error("--prompts: at least 4 were wanted, and --samples at least 1")
    (speed if options.speed else measure)(options)


if __name__ == "__main__":
    main()
