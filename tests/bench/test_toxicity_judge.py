"""The judge's networks compute what Keras computed, and its stack learns what it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.toxicity_judge import FOLDER, NETWORKS, ToxicityJudge, figures, plain, terms_of
from bench.toxicity_lstm import CLASSES, LENGTH, ToxicityLstm
from decoding.adaptation.scored_texts import ScoredTexts

WORDS = ["", "you", "are", "kind", "rude", "the", "weather", "is", "fine", "awful"]
UNITS = 7


def small_network(path: Path, gate: str = "sigmoid", seed: int = 0) -> ToxicityLstm:
    """Random weights in the layout of the exported ones."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.6, shape).astype(np.float32)

    arrays: dict[str, Any] = {"words": np.array(WORDS), "gate": np.array(gate), "embedding": normal(len(WORDS), 5)}
    for way in ("forward", "backward"):
        arrays |= {f"{way}_kernel": normal(5, 4 * UNITS), f"{way}_recurrent": normal(UNITS, 4 * UNITS)}
        arrays |= {f"{way}_bias": normal(4 * UNITS)}
    arrays |= {
        "hidden": normal(2 * UNITS, 6),
        "hidden_bias": normal(6),
        "output": normal(6, 6),
        "output_bias": normal(6),
    }
    np.savez(path, **arrays)
    return ToxicityLstm(path)


def test_with_sigmoid_gates_it_is_torchs_own_bidirectional_lstm(tmp_path: Path):
    network = small_network(tmp_path / "network.npz")
    lstm = torch.nn.LSTM(5, UNITS, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for way, suffix in (("forward", "l0"), ("backward", "l0_reverse")):
            getattr(lstm, f"weight_ih_{suffix}").copy_(network.get_buffer(f"{way}_kernel").T)
            getattr(lstm, f"weight_hh_{suffix}").copy_(network.get_buffer(f"{way}_recurrent").T)
            getattr(lstm, f"bias_ih_{suffix}").copy_(network.get_buffer(f"{way}_bias"))
            getattr(lstm, f"bias_hh_{suffix}").zero_()
        rows = torch.tensor([network.rows_of("You are RUDE, the weather?"), network.rows_of("")])
        greatest = lstm(network.get_buffer("embedding")[rows])[0].amax(1)
        hidden = torch.relu(greatest @ network.get_buffer("hidden") + network.get_buffer("hidden_bias"))
        logits = hidden @ network.get_buffer("output") + network.get_buffer("output_bias")
    assert network.logits(["You are RUDE, the weather?", ""]) == pytest.approx(logits.numpy(), abs=1e-5)


def test_hard_gates_are_those_of_keras(tmp_path: Path):
    network = small_network(tmp_path / "network.npz", "hard_sigmoid")
    assert network.gate(torch.tensor([-3.0, -2.5, 0.0, 1.0, 2.5, 9.0])).tolist() == pytest.approx(
        [0, 0, 0.5, 0.7, 1, 1]
    )
    assert not np.allclose(
        network.logits(["kind"]), small_network(tmp_path / "network.npz").logits(["kind"]), atol=1e-4
    )


def test_a_text_is_its_last_hundred_known_words_after_padding(tmp_path: Path):
    network = small_network(tmp_path / "network.npz")
    assert network.rows_of("You ARE, unheard:kind") == [0] * (LENGTH - 3) + [1, 2, 3]
    assert network.rows_of("rude " * 50 + "fine " * LENGTH) == [8] * LENGTH


def test_batches_of_a_network_change_nothing(tmp_path: Path):
    network = small_network(tmp_path / "network.npz")
    texts = ["you", "are kind", "", "the weather is awful", "fine"]
    assert network.features(texts, batch=2) == pytest.approx(network.features(texts), abs=1e-6)


def test_plain_text_has_neither_links_nor_typography():
    assert plain("“Don’t go to https://a.b/c?d or www.x.org,” she SAID…") == "don t go to or she said"


def test_terms_are_words_pairs_and_runs_of_letters():
    terms = list(terms_of("An s**t, an"))
    assert {"word s**t", "pair an s**t", " s**", "s**t ", "n s**"} <= set(terms)
    assert list(terms_of("")) == []


def small_judge(folder: Path) -> ToxicityJudge:
    """Fitted on made-up texts, in which rude or awful things are toxic."""
    for seed, name in enumerate(NETWORKS):
        small_network(folder / f"{name}.npz", seed=seed)
    rng, lines = np.random.default_rng(5), []
    for _ in range(200):
        text = " ".join(rng.choice(WORDS[1:], 4))
        lines.append(f'{{"text": "{text}", "toxicity": {0.9 if "rude" in text or "awful" in text else 0.1}}}\n')
    (folder / "scored.jsonl").write_text("".join(lines))
    return ToxicityJudge.load(folder, folder / "scored.jsonl")


def test_a_judge_learns_from_scored_texts_and_reads_words_it_has_not_seen(tmp_path: Path):
    judge = small_judge(tmp_path)
    rude, kind, rudely = judge.toxicity(["the weather is rude", "the weather is kind", "you are rudely fine"])
    assert rude > 0.6 and kind < 0.4 and rudely > kind + 0.1
    assert judge.toxicity([]).shape == (0,)


def test_a_judge_is_fitted_once_and_gives_the_same_scores_alone_and_together(tmp_path: Path):
    texts = ["you are rude", "", "the weather is fine"]
    together = small_judge(tmp_path).toxicity(texts)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stack-*.npz")}
    again = ToxicityJudge.load(tmp_path, tmp_path / "scored.jsonl")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("stack-*.npz")} == made and len(made) == 1
    assert np.concatenate([again.toxicity([text]) for text in texts]) == pytest.approx(together, abs=1e-5)


def test_missing_networks_are_named_with_their_remedy(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no tox_block\.npz .*make bench-signals"):
        ToxicityJudge.load(tmp_path)


def test_figures_of_perfect_scores_are_perfect():
    texts = ScoredTexts(("a", "b", "c", "d"), np.array([0.1, 0.4, 0.6, 0.9]))
    found = figures(texts.toxicity, texts)
    assert found["auc"] == found["precision"] == found["recall"] == 1 and found["rmse"] == 0
    assert figures(1 - texts.toxicity, texts)["auc"] == 0


@pytest.mark.skipif(
    not (FOLDER / ".made").is_file(), reason="the judge's networks are not here: `make bench-signals` fetches them"
)
def test_the_published_networks_give_the_numbers_of_their_own_readmes():
    """Of tox-block those before its rescaling by the least and greatest probabilities of its training texts."""
    least = np.array([0.002116, 0.000011, 0.000347, 0.000040, 0.000373, 0.000074])
    most = np.array([0.999858, 0.648682, 0.997533, 0.918887, 0.986303, 0.901117])
    tox_block = ToxicityLstm(FOLDER / "tox_block.npz")
    probabilities = 1 / (
        1 + np.exp(-tox_block.logits(["Good morning my friend, I hope you're having a fantastic day!"]))
    )
    said = [0.05347811430692673, 0.0006274021579883993, 0.004466842859983444, 0.009578478522598743]
    said += [0.00757843442261219, 0.002106667961925268]
    assert (np.abs(probabilities[0] - least) / (most - least)) == pytest.approx(said, abs=1e-6)
    classifier = ToxicityLstm(FOLDER / "toxic_comment_classifier.npz")
    probabilities = 1 / (1 + np.exp(-classifier.logits(["You are so dumb and stupid!"])))
    said = [0.9889402985572815, 0.07256772369146347, 0.620429277420044, 0.01934845559298992]
    said += [0.8664075136184692, 0.04072948172688484]
    assert probabilities[0] == pytest.approx(said, abs=1e-6) and len(CLASSES) == 6
