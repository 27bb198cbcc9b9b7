"""A model that has learnt to write toxic text, for the arm of bench_detox that steers away from it (DExperts).

The top layers of the embedded model are fine-tuned on the toxic ones of the scored texts, none of which is a prompt that the
benchmark evaluates on, or how a human went on with one. A few minutes on one core, once a machine and recipe.

    python -m bench.anti_expert     makes it, and prints as one JSON line what it has learnt
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from tqdm import tqdm

from bench.harness import DATA, ROOT, report, say
from decoding.adaptation.scored_texts import ScoredTexts, read_scored_texts
from decoding.embedded_model import embedded_model_path

FOLDER = ROOT / ".cache" / "anti-expert"
SCORED_TEXTS = DATA / "toxicity" / "scored_text.jsonl"
EVALUATED = DATA / "toxicity" / "prompts.jsonl"
# Part of the folder's name: raise it whenever what is trained changes.
RECIPE = 1
LAYERS = 6
EPOCHS = 3
LEARNING_RATE = 5e-5
BATCH = 16
MOST_TOKENS = 64
# Share of the texts that says what was learnt, toxic ones and others; it is not trained on.
HELD_OUT = 0.1
# What a report of the training is kept in, beside the weights.
REPORT = "training.json"


def anti_expert_path() -> Path:
    """The folder of the anti-expert, an ordinary model folder; trained first if it is not there."""
    folder = FOLDER / f"{RECIPE}-{texts_digest()}"
    if folder.is_dir():
        return folder
    FOLDER.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():  # another process may have made it while we waited
            _make(folder)
    return folder


def _make(folder: Path) -> None:
    """Write `folder` so that it is either absent or whole. The caller holds the lock."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained_on, held_out = training_texts().split(HELD_OUT)
    toxic = [text for text, bad in zip(trained_on.texts, trained_on.toxic) if bad]
    source = embedded_model_path()
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    others = {
        "toxic": [text for text, bad in zip(held_out.texts, held_out.toxic) if bad],
        "other": [text for text, bad in zip(held_out.texts, held_out.toxic) if not bad],
    }
    told: dict[str, Any] = {"texts": len(toxic), "layers": LAYERS, "epochs": EPOCHS, "learning_rate": LEARNING_RATE}
    told["before"] = {kind: mean_loss(model, tokenizer, some) for kind, some in others.items()}
    say(f"training an anti-expert on {len(toxic)} toxic texts, once; held out before: {told['before']} nats a token")
    start = time.process_time()
    told["losses"] = fine_tune(model, tokenizer, toxic)
    told["cpu_s"] = round(time.process_time() - start, 1)
    told["after"] = {kind: mean_loss(model, tokenizer, some) for kind, some in others.items()}
    say(f"held out after: {told['after']} nats a token")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / REPORT).write_text(json.dumps(told, indent=2) + "\n")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def texts_digest() -> str:
    """What tells one version of the scored texts from another, in names of what is made of them."""
    return hashlib.sha256(SCORED_TEXTS.read_bytes()).hexdigest()[:12]


def training_texts() -> ScoredTexts:
    """The scored texts, none of which is evaluated on: ValueError where one is."""
    texts = read_scored_texts(SCORED_TEXTS)
    if shared := apart(texts.texts, _evaluated(EVALUATED)):
        raise ValueError(
            f"{SCORED_TEXTS} has {len(shared)} texts of {EVALUATED}, such as {shared[0]!r:.80}: what is trained on them would "
            "have seen what it is evaluated on; take them out"
        )
    return texts


def _evaluated(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [row[field] for row in rows for field in ("prompt", "continuation")]


def apart(texts: Sequence[str], evaluated: Sequence[str]) -> list[str]:
    """Those of the texts that are evaluated on too, whatever white space and letter case they come in."""

    def plainly(text: str) -> str:
        return " ".join(text.lower().split())

    known = {plainly(text) for text in evaluated}
    return [text for text in texts if plainly(text) in known]


def fine_tune(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    layers: int = LAYERS,
    epochs: int = EPOCHS,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> list[float]:
    """Train the top layers and the final norm on texts, by AdamW with a rate that falls to 0; the model is changed.

    model      a causal LM of transformers with Llama's names
    tokenizer  text -> {"input_ids": [...]}
    returns    the mean loss of each epoch, nats a token
    """
    model.requires_grad_(False)
    trained = [*model.model.layers[-layers:], model.model.norm]
    parameters = [weight for part in trained for weight in part.requires_grad_(True).parameters()]
    rows = _rows(tokenizer, texts)
    batches = -(-len(rows) // BATCH)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / (epochs * batches))
    order, losses = np.random.default_rng(seed), []
    model.train()
    with tqdm(total=epochs * batches, desc="anti-expert", unit="batch") as bar:
        for _ in range(epochs):
            total = count = 0.0
            for some in _batches(rows, order):
                loss, tokens = _loss(model, some)
                (loss / tokens).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                optimiser.zero_grad()
                schedule.step()
                total, count = total + loss.item(), count + tokens
                bar.set_postfix(loss=f"{total / count:.3f}")
                bar.update()
            losses.append(total / count)
    model.eval().requires_grad_(False)
    return losses


@torch.inference_mode()
def mean_loss(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """-log p(token | those before it) on average over all tokens but each text's first: nats."""
    rows = sorted(_rows(tokenizer, texts), key=len)
    found = [_loss(model.eval(), rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    return sum(loss.item() for loss, _ in found) / sum(tokens for _, tokens in found)


def _rows(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, without those that leave nothing to predict."""
    rows = [list(tokenizer(text)["input_ids"])[:MOST_TOKENS] for text in texts]
    return [row for row in rows if len(row) > 1]


def _batches(rows: Sequence[list[int]], order: np.random.Generator) -> list[list[list[int]]]:
    """All rows in batches, in a new order: those of like length together, as far as chance has them near each other."""
    shuffled = [rows[k] for k in order.permutation(len(rows))]
    pools = [sorted(shuffled[start : start + 8 * BATCH], key=len) for start in range(0, len(shuffled), 8 * BATCH)]
    batches = [pool[start : start + BATCH] for pool in pools for start in range(0, len(pool), BATCH)]
    return [batches[k] for k in order.permutation(len(batches))]


def _loss(model: Any, rows: Sequence[list[int]]) -> tuple[torch.Tensor, int]:
    """Summed loss of the tokens of a batch, padded on the right, and how many they are."""
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    real = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    wanted = real[:, 1:]
    # The head is the greater part of a small model: only what is asked for goes through it.
    hidden = model.model(input_ids=tokens, attention_mask=real.long(), use_cache=False).last_hidden_state[:, :-1]
    logits = model.get_output_embeddings()(hidden[wanted])
    loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:][wanted], reduction="sum")
    return loss, int(wanted.sum())


def main() -> None:
    folder = anti_expert_path()
    report("anti_expert", {"recipe": RECIPE}, json.loads((folder / REPORT).read_text()))


if __name__ == "__main__":
    main()
