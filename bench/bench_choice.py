"""What does a closed set of a million names cost, and is the posterior over a small one exact?

Names are made up, with the shape of entity names: people, places, events and organisations of one to six words, in which
first names, surnames and kinds recur. Masks are taken along the tokenizer's own tokens of random names. `cold` is a node
of the trie that nobody has asked for before; `walked` is what a run of such names sees, its caches included.

The posterior is checked on 200 texts: the exact one by enumeration of all their tokenisations with the model outside the
engine, as in bench_soundness, and `posterior()` of the engine with the exact mask.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bench.harness import report, say
from grammars.choice import Choice, ChoiceConstraint
from grammars.choice_trie import next_tokens, token_trie
from grammars.vocabulary import Vocabulary, vocabulary_from_tokenizer

ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "fr",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "sh",
]
ONSETS += ["st", "t", "tr", "v", "w", "z"]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou", "é", "ö"]
CODAS = ["", "", "n", "r", "l", "s", "ck", "nd", "rt", "m"]
KINDS = ["University of", "Lake", "Mount", "Saint", "Battle of", "Treaty of", "River", "Port", "Castle", "Church of"]
TAILS = [
    "(film)",
    "(album)",
    "(band)",
    "(politician)",
    "County",
    "Township",
    "Inc.",
    "Railway Station",
    "Football Club",
    "Airport",
]


def names(number: int, seed: int = 0) -> list[str]:
    """Different names, in random order; the same for the same seed."""
    random = Random(seed)
    syllables = [onset + vowel + coda for onset in ONSETS for vowel in VOWELS for coda in CODAS]
    first = ["".join(random.choices(syllables, k=random.randint(1, 2))).capitalize() for _ in range(3_000)]
    last = ["".join(random.choices(syllables, k=random.randint(1, 3))).capitalize() for _ in range(40_000)]
    found: dict[str, None] = {}
    while len(found) < number:
        kind = random.random()
        if kind < 0.55:
            name = f"{random.choice(first)} {random.choice(last)}"
        elif kind < 0.7:
            name = f"{random.choice(first)} {random.choice(first)} {random.choice(last)}"
        elif kind < 0.85:
            name = f"{random.choice(KINDS)} {random.choice(last)}"
        else:
            name = f"{random.choice(last)} {random.choice(TAILS)}"
        if kind < 0.85 and random.random() < 0.15:
            name += f" {random.choice(TAILS)}"
        found[name] = None
    return list(found)


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def timed(make: Any) -> tuple[Any, dict[str, float]]:
    gc.collect()
    before, wall, cpu = resident_mib(), time.perf_counter(), time.process_time()
    made = make()
    figures = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    gc.collect()
    return made, {**figures, "resident_growth_mib": resident_mib() - before}


def percentiles(seconds: list[float]) -> dict[str, float]:
    us = 1e6 * np.array(seconds)
    return {"p50": float(np.percentile(us, 50)), "p99": float(np.percentile(us, 99)), "mean": float(us.mean())}


def build(number: int, vocabulary: Vocabulary) -> tuple[list[str], ChoiceConstraint, dict[str, Any]]:
    """The set from a file, and again from a list in memory."""
    made = names(number)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "names.txt"
        file.write_text("\n".join(made))
        size = file.stat().st_size
        _, tokens = timed(lambda: token_trie(vocabulary))
        language, from_file = timed(lambda: Choice(file))
        _, again = timed(lambda: Choice(file))
        constraint = language.compile(vocabulary)
        spec_bytes = len(json.dumps(language.spec))
    trie_mib = language.trie.nbytes / 2**20
    in_memory, from_list = timed(lambda: Choice(made))
    assert language.trie.labels == in_memory.trie.labels and len(language.trie) == number
    figures = {
        "names": number,
        "text_mib": size / 2**20,
        "trie_mib": trie_mib,
        "trie_nodes": language.trie.size,
        "from_file": from_file,
        "from_file_again": again,
        "from_list": from_list,
        "token_trie": tokens,
        "spec_bytes": {"file": spec_bytes, "memory": len(json.dumps(in_memory.spec))},
    }
    return made, constraint, figures


def masks(made: list[str], constraint: ChoiceConstraint, tokenizer: Any, number: int) -> dict[str, Any]:
    """Along random names, each step's mask, a check of 4 candidates and an advance; then the same nodes without a cache."""
    vocabulary, random = constraint.vocabulary, Random(7)
    chosen = random.sample(made, number)
    mask_s: list[float] = []
    check_s: list[float] = []
    one_s: list[float] = []
    advance_s: list[float] = []
    nodes: dict[int, None] = {}
    for name in chosen:
        state = constraint.start()
        for token in [*tokenizer(name)["input_ids"], vocabulary.eos]:
            nodes[state._node] = None
            candidates = np.array([token, *random.sample(range(1, len(vocabulary.tokens)), 3)])
            start = time.perf_counter()
            mask = state.bitmask()
            mask_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            verdicts = state.accepts(candidates)
            check_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            state.accepts(candidates[:1])
            one_s.append(time.perf_counter() - start)
            allowed = (mask[candidates >> 5] >> (candidates & 31)) & 1
            assert verdicts[0] and np.array_equal(verdicts, allowed.astype(bool)), name
            start = time.perf_counter()
            state = state.advance(token)
            advance_s.append(time.perf_counter() - start)
        assert state.is_complete
    cold, cold_cpu = [], []
    for node in nodes:
        start, cpu = time.perf_counter(), time.thread_time()
        vocabulary.bitmask(next_tokens(constraint.trie, node, constraint.tokens))
        cold_cpu.append(time.thread_time() - cpu)
        cold.append(time.perf_counter() - start)
    return {
        "names_walked": number,
        "steps": len(mask_s),
        "mask_us": {"walked": percentiles(mask_s), "cold": percentiles(cold), "cold_cpu": percentiles(cold_cpu)},
        "accepts_us": {"1": percentiles(one_s), "4": percentiles(check_s)},
        "advance_us": percentiles(advance_s),
    }


def posterior(runs: int, particles: int) -> dict[str, Any]:
    """200 texts: the engine's posterior beside the exact one."""
    from bench.bench_soundness import (
        ANIMALS,
        COLOURS,
        MAX_TOKENS,
        Arm,
        Case,
        Laws,
        cases,
        enumerate_texts,
        fitted,
        judge,
        outcome_of,
        reference_model,
    )
    from decoding.engine import Engine

    texts = [f"{colour} {animal}" for colour in COLOURS.split() for animal in ANIMALS.split()][:200]
    case = Case("200 names", cases()["ordinary"].prompt, Choice(texts))
    with Engine(dtype="float32", max_num_seqs=64, max_model_len=512) as engine:
        prompt = fitted(engine.tokenizer, case.prompt)
        constraint = case.language.compile(engine.vocabulary)
        exact = enumerate_texts(Laws(reference_model(), prompt), constraint, engine.vocabulary, tolerance=1e-4)
        assert set(exact.mass) <= set(texts)
        results = engine.generate(
            [prompt] * runs,
            constraint=case.language,
            particles=particles,
            max_tokens=MAX_TOKENS,
            seed=3,
            progress=False,
        )
        for result in results:
            result.raise_for_error()
            assert set(result.texts) <= set(texts)
        arm = Arm(case.name, "auto", particles, runs)
        figures = judge(outcome_of(results, exact), exact, arm, np.random.default_rng(0))
    return {"texts": len(texts), "runs": runs, "particles": particles, "left_out_of_z": exact.lost / exact.z, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--walks", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--particles", type=int, default=50)
    parser.add_argument("--without-engine", action="store_true", help="leave out the posterior")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from transformers import AutoTokenizer

    from decoding.embedded_model import embedded_model_path

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path(), local_files_only=True)
    vocabulary = vocabulary_from_tokenizer(tokenizer, len(tokenizer), (tokenizer.eos_token_id,))
    made, constraint, results = build(options.names, vocabulary)
    say(f"build: {results}")
    results |= masks(made, constraint, tokenizer, options.walks)
    say(f"masks: {results['mask_us']}, accepts: {results['accepts_us']}")
    goals = {"a cold mask takes at most 2 ms of CPU time at p99": results["mask_us"]["cold_cpu"]["p99"] <= 2_000}
    if not options.without_engine:
        results["posterior"] = posterior(options.runs, options.particles)
        say(f"posterior: {results['posterior']}")
        goals["mean exp(log_z) is the exact Z: |z| < 4"] = abs(results["posterior"]["z_score"]) < 4
        goals["posterior() is the exact one, up to twice the noise of its draws"] = results["posterior"][
            "tv"
        ] <= 2 * max(results["posterior"]["floor"], results["posterior"]["noise"])
    results["goals"] = goals
    report("choice", {"vocabulary": vocabulary.size, **vars(options)}, results)
    sys.exit(0 if all(goals.values()) else 1)


if __name__ == "__main__":
    main()
