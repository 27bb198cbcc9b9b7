"""Do texts come from the law they should come from, on the real model?

Target: a text x of the language, then EOS, in proportion to p(x, EOS | prompt), summed over every way to write x in
tokens. It is computed apart from the engine, by transformers in float32, down to a bound on what was left out.

Law of a sampler at N: one text drawn from the posterior of one run, over independent runs; a run whose particles all died
gives none. Its estimate is the mean of `Result.posterior()` over the runs, and TV is that mean's total-variation distance
from the target. Two numbers say how much of it is owed to the number of runs, and not to the sampler:
    noise  TV of a mean over resampled runs (bootstrap) from the mean over the runs, on average
    floor  TV of as many exact draws from the target as there were particles, on average
At N = 1, and for LCD (token masking) at any N, the law is known exactly: the product of the local laws.

mean exp(log_z) is compared with the exact Z, and mean exp(log_z) * posterior(head) with Z * target(head), the head being
the likeliest texts that hold half of the target. Both are unbiased at every N, with and without resampling. z is the
deviation in standard errors, brought from Student's t with K - 1 degrees of freedom to the normal scale. LCD, whose log_z
is 0, is handed the exact Z for the second comparison: it has to fail there too.
"""

from __future__ import annotations

import argparse
import heapq
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness import report, say
from bench.tasks import chat
from grammars.constraint import Constraint, ConstraintState, Language
from grammars.errors import DeadEnd
from grammars.predicate import Predicate
from grammars.regex import Regex
from grammars.registry import compile_cached
from grammars.vocabulary import Vocabulary

BATCH, ROWS = 256, 64  # prefixes taken up together, and rows of one forward
MAX_TOKENS = 40  # more than any member has bytes, so that the forced EOS of the last place is never reached
BLOCK = 32
LARGEST_Z_SCORE = 4.0

# The languages

CITIES = (
    "Bordeaux Lyon Marseille Nice Lille London Tokyo Rome Madrid Berlin Brussels Strasbourg Toulouse Nantes Barcelona Calais "
    "Cannes Dijon Lisbon Milan Geneva Grenoble Rouen Reims Montpellier Rennes Orleans Tours Amiens Metz Nancy Caen Brest "
    "Limoges Avignon Vienna Venice Naples Dublin Athens Moscow Montreal Boston Chicago Copenhagen Stockholm Oslo Helsinki "
    "Warsaw Prague Budapest Zurich Basel Amsterdam Antwerp Bruges Ghent Luxembourg Monaco Florence Turin Seville Valencia "
    "Porto Cologne Munich Hamburg Frankfurt Dresden Leipzig Bonn Istanbul Cairo Algiers Tunis Casablanca Dakar Beirut Delhi "
    "Mumbai Beijing Shanghai Seoul Kyoto Osaka Sydney Melbourne Toronto Vancouver Quebec Ottawa Miami Dallas Denver Seattle "
    "Houston Detroit Lima Bogota Santiago Havana Versailles Lourdes Chartres Arles Nimes Toulon Pau Perpignan"
)
COLOURS = "white black brown red grey yellow pink green blue golden wild fat"
ANIMALS = "horse cow pig sheep dog cat goat bird duck hen rat bear fox goose snake frog bull lamb deer owl"


def any_of(words: str) -> str:
    return words.replace(" ", "|")


def no_common_letter(text: str, complete: bool) -> bool:
    """Whether the animal has no letter of its colour, as far as the text goes."""
    colour, _, animal = text.partition(" ")
    return not set(colour) & set(animal)


@dataclass(frozen=True)
class Case:
    """A target: a prompt, a language of a few hundred texts, a temperature."""

    name: str
    prompt: str
    language: Language
    temperature: float = 1.0


def cases() -> dict[str, Case]:
    where = chat("Answer with a colour and an animal.", [("forest", "brown bear"), ("garden", "black bird")], "farm")
    animal = Regex(f"({any_of(COLOURS)}) ({any_of(ANIMALS)})")
    country = chat(
        "Answer with one city in the country that the user names.",
        [("Italy", "Rome"), ("Spain", "Barcelona")],
        "France",
    )
    # The model says Paris, and ends: the language has Paris only with two digits after it, which the model hardly writes.
    city = Regex(f"{any_of(CITIES)}|Paris [0-9]{{2}}")
    every = [
        Case("ordinary", where, animal),
        Case("ordinary, T=0.8", where, animal, 0.8),
        Case("regex & predicate", where, animal & Predicate(no_common_letter)),
        Case("trap", country, city),
    ]
    return {case.name: case for case in every}


@dataclass(frozen=True)
class Arm:
    """A sampler on a target: `runs` independent runs of N particles."""

    case: str
    sampler: str
    particles: int
    runs: int
    ess_threshold: float = 0.5


def arms() -> list[Arm]:
    plan = [
        Arm(case, sampler, particles, runs, 0.0 if sampler == "lcd" else 0.5)
        for case in ("ordinary", "trap")
        for sampler, counts in (
            ("lcd", {1: 300, 5: 60, 10: 40, 50: 12}),
            ("awrs", {1: 500, 5: 120, 10: 80, 50: 30}),
            ("masked", {1: 500, 5: 120, 10: 80, 50: 30}),
        )
        for particles, runs in counts.items()
    ]
    plan += [Arm("trap", sampler, 10, 80, threshold) for sampler in ("awrs", "masked") for threshold in (0.0, 1.0)]
    plan += [Arm("ordinary, T=0.8", sampler, 10, 80) for sampler in ("awrs", "masked")]
    plan += [Arm("regex & predicate", sampler, 10, 80) for sampler in ("awrs", "auto")]
    return plan


# The exact side


class Laws:
    """The next-token laws of a transformers model after a prompt. Every prefix is run once, on its parent's keys and values.

    prompt  int [T], at least 2 tokens
    """

    def __init__(self, model: Any, prompt: Sequence[int]) -> None:
        import torch

        self._model, self._last = model, prompt[-1]
        self._rows: dict[tuple[int, ...], np.ndarray] = {}
        # [layers, 2, heads, T - 1, head size] of all but the prompt's last token; and one token more for every prefix.
        self._before = self._keys_values(self._run(torch.tensor([list(prompt[:-1])]), None)[1])[0]
        self._added: dict[tuple[int, ...], Any] = {}

    def logits(self, prefixes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """float32 [V] for each prefix: tokens after the prompt. Their parents' must have been asked for before."""
        missing: dict[int, list[tuple[int, ...]]] = {}
        for prefix in prefixes:
            if prefix not in self._rows:
                missing.setdefault(len(prefix), []).append(prefix)
        for alike in missing.values():
            for start in range(0, len(alike), ROWS):
                self._extend(alike[start : start + ROWS])
        return [self._rows[prefix] for prefix in prefixes]

    def _extend(self, prefixes: Sequence[tuple[int, ...]]) -> None:
        """Run the last token of some prefixes of one length."""
        import torch
        from transformers import DynamicCache

        length = len(prefixes[0])
        past = self._before.expand(len(prefixes), *self._before.shape)
        if length:
            own = [torch.cat([self._added[prefix[:k]] for k in range(length)], dim=-2) for prefix in prefixes]
            past = torch.cat([past, torch.stack(own)], dim=-2)
        cache = DynamicCache()
        for layer in range(past.shape[1]):
            cache.update(past[:, layer, 0], past[:, layer, 1], layer)
        tokens = torch.tensor([[prefix[-1] if prefix else self._last] for prefix in prefixes])
        rows, cache = self._run(tokens, cache)
        added = self._keys_values(cache)[..., -1:, :]
        for n, prefix in enumerate(prefixes):
            self._rows[prefix] = rows[n]
            self._added[prefix] = added[n].clone()

    def _run(self, tokens: Any, cache: Any) -> tuple[np.ndarray, Any]:
        import torch

        with torch.inference_mode():
            out = self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].numpy(), out.past_key_values

    @staticmethod
    def _keys_values(cache: Any) -> Any:
        """[n, layers, 2, heads, T, head size]"""
        import torch

        return torch.stack([torch.stack([layer.keys, layer.values], 1) for layer in cache.layers], 1)


@dataclass(frozen=True)
class Exact:
    """The target, and the law of token masking, by enumeration of token sequences.

    mass       text -> p(text, EOS | prompt), unnormalised
    local      text -> its probability under token masking; sums to 1 less what was left out or ended in a dead end
    lost       bound on the mass that was left out; local_lost likewise of `local`
    nodes      prefixes whose next-token law was computed
    """

    mass: Mapping[str, float]
    local: Mapping[str, float]
    lost: float
    local_lost: float
    nodes: int

    @property
    def z(self) -> float:
        return math.fsum(self.mass.values())

    @property
    def posterior(self) -> dict[str, float]:
        return {text: mass / self.z for text, mass in self.mass.items()}

    @property
    def masking(self) -> dict[str, float]:
        """The law of a text that token masking ends."""
        total = math.fsum(self.local.values())
        return {text: mass / total for text, mass in self.local.items()}


def enumerate_texts(
    laws: Laws,
    constraint: Constraint,
    vocabulary: Vocabulary,
    temperature: float = 1.0,
    tolerance: float = 1e-3,
    local_tolerance: float = 2e-2,
) -> Exact:
    """Walk the tree of admissible token prefixes, the likeliest first, until little is left.

    The mass under a prefix is at most its own probability, so the prefixes not walked bound what is left out: of Z by
    tolerance * Z, of the masking law by local_tolerance.
    """
    mass: dict[str, float] = {}
    local: dict[str, float] = {}
    frontier: list[tuple[float, int, tuple[int, ...], ConstraintState, float, float]] = []
    count = 0

    def push(prefix: tuple[int, ...], state: ConstraintState, log_p: float, log_q: float) -> None:
        nonlocal count
        count += 1
        scale = math.fsum(mass.values()) or 1.0
        rank = max(math.exp(log_p) / scale / tolerance, math.exp(log_q) / local_tolerance)
        heapq.heappush(frontier, (-rank, count, prefix, state, log_p, log_q))

    push((), constraint.start(), 0.0, 0.0)
    nodes = 0
    while frontier:
        lost = math.fsum(math.exp(node[4]) for node in frontier)
        local_lost = math.fsum(math.exp(node[5]) for node in frontier)
        if lost <= tolerance * math.fsum(mass.values()) and local_lost <= local_tolerance:
            return Exact(mass, local, lost, local_lost, nodes)
        taken = [heapq.heappop(frontier) for _ in range(min(len(frontier), BATCH))]
        nodes += len(taken)
        for (_, _, prefix, state, log_p, log_q), logits in zip(
            taken, laws.logits([node[2] for node in taken]), strict=True
        ):
            logprobs = log_softmax(logits.astype(np.float64) / temperature)
            tokens = admissible(state, vocabulary)
            log_z = float(np.logaddexp.reduce(logprobs[tokens])) if len(tokens) else -math.inf
            for token in tokens.tolist():
                child = log_p + logprobs[token], log_q + logprobs[token] - log_z
                if token == vocabulary.eos:
                    text = vocabulary.decode(list(prefix)).decode()
                    mass[text] = mass.get(text, 0.0) + math.exp(child[0])
                    local[text] = local.get(text, 0.0) + math.exp(child[1])
                else:
                    push((*prefix, token), state.advance(token), *child)
    return Exact(mass, local, 0.0, 0.0, nodes)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def admissible(state: ConstraintState, vocabulary: Vocabulary) -> np.ndarray:
    """The tokens that may come next: the bitmask's, tested where it is too wide. int64 [n], EOS among them if complete."""
    bitmask = state.bitmask()
    if bitmask is None:
        tokens = np.arange(vocabulary.size)
        return tokens[state.accepts(tokens)]
    tokens = np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little")[: vocabulary.size])
    return tokens if state.mask_is_exact else tokens[state.accepts(tokens, masked=True)]


def fitted(tokenizer: Any, prompt: str) -> list[int]:
    """The prompt's tokens after as many newlines as make it full blocks and one token more.

    All rows then share the blocks through vLLM's prefix cache, and each computes one token of the prompt.
    """
    tokens = tokenizer(prompt)["input_ids"]
    return tokenizer("\n")["input_ids"] * ((1 - len(tokens)) % BLOCK) + tokens


def exact_laws(wanted: Sequence[Case], engine: Any) -> dict[str, Exact]:
    """The exact side of every case; cases with one prompt share its next-token laws."""
    model = reference_model()
    found: dict[str, Exact] = {}
    for prompt in dict.fromkeys(case.prompt for case in wanted):
        laws = Laws(model, fitted(engine.tokenizer, prompt))
        for case in wanted:
            if case.prompt == prompt:
                constraint = compile_cached(case.language, engine.vocabulary)
                start = time.perf_counter()
                exact = found[case.name] = enumerate_texts(laws, constraint, engine.vocabulary, case.temperature)
                say(
                    f"exact  {case.name:18s} Z {exact.z:.5f} (left out <= {exact.lost / exact.z:.0e} of it)  {len(exact.mass)} "
                    f"texts  {exact.nodes} prefixes  TV of token masking {distance(exact.masking, exact.posterior):.3f} "
                    f"(+- {exact.local_lost:.3f})  {time.perf_counter() - start:.0f} s"
                )
    return found


def reference_model() -> Any:
    """The embedded model in transformers, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    from decoding.embedded_model import embedded_model_path

    return AutoModelForCausalLM.from_pretrained(
        embedded_model_path(), dtype=torch.float32, local_files_only=True
    ).eval()


# The drawn side


@dataclass(frozen=True)
class Outcome:
    """What the runs of an arm gave.

    texts   [S] all texts of the target and of the runs
    laws    float64 [K, S] the posterior of each run; a row of zeros where all particles died
    masses  float64 [K] exp(log_z)
    """

    texts: list[str]
    laws: np.ndarray
    masses: np.ndarray

    @property
    def law(self) -> np.ndarray:
        """float64 [S]: the drawn law, given that there is a text."""
        total = self.laws.sum(0)
        return total / total.sum()


def outcome_of(results: Sequence[Any], exact: Exact) -> Outcome:
    posteriors = [{} if np.all(result.log_weights == -np.inf) else result.posterior() for result in results]
    texts = sorted({text for law in (exact.mass, *posteriors) for text in law})
    index = {text: s for s, text in enumerate(texts)}
    laws = np.zeros((len(results), len(texts)))
    for k, posterior in enumerate(posteriors):
        for text, share in posterior.items():
            laws[k, index[text]] = share
    return Outcome(texts, laws, np.exp([result.log_z for result in results]))


def distance(law: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Total variation."""
    return 0.5 * math.fsum(abs(law.get(text, 0.0) - other.get(text, 0.0)) for text in law.keys() | other.keys())


def z_score(samples: np.ndarray, expected: float) -> float:
    """How far the mean of independent samples lies from what is expected, as a normal deviate.

    samples  float64 [K]
    """
    from scipy.stats import norm, t

    deviation, error = samples.mean() - expected, samples.std(ddof=1) / math.sqrt(len(samples))
    if error == 0.0:
        return 0.0 if deviation == 0.0 else math.copysign(math.inf, deviation)
    return math.copysign(float(norm.isf(t.sf(abs(deviation) / error, len(samples) - 1))), deviation)


def head_of(posterior: Mapping[str, float]) -> set[str]:
    """The likeliest texts, as few as hold half of the law."""
    head: set[str] = set()
    held = 0.0
    for text, share in sorted(posterior.items(), key=lambda item: -item[1]):
        if held >= 0.5:
            break
        head.add(text)
        held += share
    return head


def judge(outcome: Outcome, exact: Exact, arm: Arm, rng: np.random.Generator) -> dict[str, float]:
    """The figures of one arm."""
    particles = arm.particles
    posterior, masking = exact.posterior, exact.masking
    law = outcome.law
    target = np.array([posterior.get(text, 0.0) for text in outcome.texts])
    local = np.array([masking.get(text, 0.0) for text in outcome.texts])
    head = head_of(posterior)
    in_head = np.array([text in head for text in outcome.texts])
    runs = len(outcome.masses)
    again = rng.multinomial(runs, np.full(runs, 1.0 / runs), size=200) @ outcome.laws
    noise = 0.5 * np.abs(again / again.sum(1, keepdims=True) - law).sum(1).mean()
    draws = rng.multinomial(runs * particles, target / target.sum(), size=200) / (runs * particles)
    masses = outcome.masses
    weights_of_head = np.full(runs, exact.z) if arm.sampler == "lcd" else masses
    head_share = math.fsum(posterior[text] for text in head)
    return {
        "tv": 0.5 * float(np.abs(law - target).sum()),
        "noise": float(noise),
        "floor": 0.5 * float(np.abs(draws - target).sum(1).mean()),
        "tv_from_token_masking": 0.5 * float(np.abs(law - local).sum()),
        "z_hat": float(masses.mean()),
        "z_hat_error": float(masses.std(ddof=1) / math.sqrt(runs)),
        "z_exact": exact.z,
        "z_score": z_score(masses, exact.z),
        "z_score_head": z_score(weights_of_head * (outcome.laws @ in_head), exact.z * head_share),
        "dead_runs": float((masses == 0.0).mean()),
    }


def run(engine: Any, case: Case, arm: Arm, seed: int, exact: Exact) -> dict[str, float]:
    results = engine.generate(
        [fitted(engine.tokenizer, case.prompt)] * arm.runs,
        constraint=case.language,
        particles=arm.particles,
        sampler=arm.sampler,
        ess_threshold=arm.ess_threshold,
        temperature=case.temperature,
        max_tokens=MAX_TOKENS,
        seed=seed,
        progress=False,
    )
    for result in results:
        if not isinstance(result.error, DeadEnd):  # a run whose particles all died is part of the law: its mass is 0
            result.raise_for_error()
        for text, reason in zip(result.texts, result.finish_reasons, strict=True):
            assert reason == "dead" or is_member(case.language, text), (
                f"{text!r} is not in the language of {case.name!r}"
            )
    figures = judge(outcome_of(results, exact), exact, arm, np.random.default_rng(seed))
    tokens = sum(result.stats.sampled_tokens for result in results)
    return {
        **figures,
        "ess": float(np.mean([result.ess for result in results])),
        "checks_per_token": sum(result.stats.checks for result in results) / tokens,
        "resamplings": float(np.mean([result.stats.resamplings for result in results])),
        "tokens": tokens,
    }


def is_member(language: Language, text: str) -> bool:
    """Whether a finished text belongs to the language, without its compiled form."""
    if isinstance(language, Regex):
        return re.fullmatch(language.pattern, text) is not None
    if isinstance(language, Predicate):
        return language.ask(text, True)
    return all(is_member(part, text) for part in language.parts)


def goals(figures: Mapping[Arm, Mapping[str, float]], exact: Mapping[str, Exact]) -> dict[str, bool]:
    """What must hold."""
    sound = {arm: row for arm, row in figures.items() if arm.sampler != "lcd"}
    lcd = {arm: row for arm, row in figures.items() if arm.sampler == "lcd"}

    def trap(sampler: str) -> float:
        return next(
            row["tv"] for arm, row in figures.items() if (arm.case, arm.sampler, arm.particles) == ("trap", sampler, 50)
        )

    masking = distance(exact["trap"].masking, exact["trap"].posterior)
    return {
        "LCD is wrong in the trap: TV >= 0.3, exactly and as drawn at every N": masking - exact["trap"].local_lost
        >= 0.3
        and all(row["tv"] >= 0.3 for arm, row in lcd.items() if arm.case == "trap"),
        "AWRS at N=50 has at most a third of LCD's TV in the trap": trap("awrs") <= min(trap("lcd"), masking) / 3,
        "masked at N=50 has at most a third of LCD's TV in the trap": trap("masked") <= min(trap("lcd"), masking) / 3,
        "mean exp(log_z) is Z, for every sampler, N and threshold": all(
            abs(row["z_score"]) < LARGEST_Z_SCORE for row in sound.values()
        ),
        "the likeliest texts have their mass, for every sampler, N and threshold": all(
            abs(row["z_score_head"]) < LARGEST_Z_SCORE for row in sound.values()
        ),
        "the same checks find LCD's bias": all(
            min(abs(row["z_score"]), abs(row["z_score_head"])) >= LARGEST_Z_SCORE for row in lcd.values()
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="runs of every arm, times this")
    options = parser.parse_args()
    began = time.perf_counter()

    from decoding.engine import Engine
    from decoding.request import finite_or_none

    every = cases()
    with Engine(dtype="float32", max_num_seqs=100, max_model_len=256, block_size=BLOCK) as engine:
        exact = exact_laws(list(every.values()), engine)
        say(
            f"\n{'target':18s} {'sampler':8s} {'N':>3s} {'runs':>5s} {'resample':>8s} {'TV':>6s} {'noise':>6s} {'floor':>6s} "
            f"{'exp(log_z)':>18s} {'z':>6s} {'z head':>6s} {'ESS':>5s} {'forks':>5s} {'dead':>5s} {'s':>4s}"
        )
        figures: dict[Arm, dict[str, float]] = {}
        for seed, arm in enumerate(arms()):
            arm = Arm(arm.case, arm.sampler, arm.particles, max(round(arm.runs * options.scale), 4), arm.ess_threshold)
            start = time.perf_counter()
            row = figures[arm] = run(engine, every[arm.case], arm, seed, exact[arm.case])
            say(
                f"{arm.case:18s} {arm.sampler:8s} {arm.particles:3d} {arm.runs:5d} {arm.ess_threshold:8.1f} {row['tv']:6.3f} "
                f"{row['noise']:6.3f} {row['floor']:6.3f} {row['z_hat']:9.5f} +-{row['z_hat_error']:.5f} {row['z_score']:6.2f} "
                f"{row['z_score_head']:6.2f} {row['ess']:5.1f} {row['resamplings']:5.2f} {row['dead_runs']:5.2f} "
                f"{time.perf_counter() - start:4.0f}"
            )
    met = goals(figures, exact)
    for goal, holds in met.items():
        say(f"{'met    ' if holds else 'NOT MET'} {goal}")
    report(
        "soundness",
        {"scale": options.scale, "dtype": "float32", "max_tokens": MAX_TOKENS, "wall_s": time.perf_counter() - began},
        {
            "exact": {
                name: {
                    "z": one.z,
                    "lost": one.lost,
                    "texts": len(one.mass),
                    "prefixes": one.nodes,
                    "tv_of_token_masking": distance(one.masking, one.posterior),
                    "tv_of_token_masking_error": one.local_lost,
                }
                for name, one in exact.items()
            },
            "arms": [
                {**vars(arm), **{key: finite_or_none(x) for key, x in row.items()}} for arm, row in figures.items()
            ],
            "goals": met,
        },
    )
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
