"""UDDIA on small real transformers in float64: what it must not change, and its law against the method written out once more."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from decoding.adaptation.attribute_head import AttributeHead
from decoding.adaptation.exact import UDDIA
from decoding.adaptation.exact_groups import TokenGroups
from decoding.adaptation.exact_law import draw, nucleus
from decoding.adaptation.exact_offsets import Offsets
from decoding.adaptation.exact_optimisers import EXCESS, OPTIMISERS
from decoding.adaptation.exact_settings import ExactResult, ExactSettings
from decoding.torch_model import Past, TorchModel
from grammars.errors import EngineError, RequestError
from grammars.vocabulary import Vocabulary
from samplers.randomness import derive_seed, uniforms
from tests.decoding.small_models import KINDS, LETTERS, small
from tests.laws.test_token_samplers import radius

PROMPTS = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10, 11], [3, 3, 3]]
# A gap that some rows of these models are above and some below.
BOTH = ExactSettings(debias=0.5, debias_gap=0.05, layers=2, top_p=0.95)
ARMS = {"t": replace(BOTH, debias=0.0), "b": replace(BOTH, detox=0.0), "u": BOTH}


def head() -> AttributeHead:
    return AttributeHead(np.random.default_rng(0).normal(size=16), 0.1, "small")


def groups(model: TorchModel) -> TokenGroups:
    """Six letters for one group, four for the other, and five for none."""
    vectors = torch.zeros(16, 2, dtype=torch.float64)
    vectors[:6, 0] = vectors[6:10, 1] = 1
    laws = vectors * torch.arange(1, 17)[:, None]
    return TokenGroups(("a", "b"), vectors, torch.eye(2, dtype=torch.float64), False, laws / laws.sum(dim=0))


def uddia(model: TorchModel, settings: ExactSettings) -> UDDIA:
    return UDDIA(model, settings, head(), groups(model))


def plain(
    model: TorchModel, prompt: Sequence[int], seed: int, max_tokens: int, top_p: float
) -> tuple[list[int], list[float]]:
    """Decoding without anything: a full forward pass, its nucleus, and the same random numbers."""
    tokens: list[int] = []
    log_q = []
    for position in range(max_tokens):
        law = nucleus(model.next_logprobs([*prompt, *tokens])[None], top_p)
        address = np.array([seed], dtype=np.uint64), np.array([0]), np.array([position])
        (token,) = draw(law, uniforms(*address, 0, 1)[:, 0]).tolist()
        log_q.append(law[0, token])
        if token == model.vocabulary.eos:
            break
        tokens.append(token)
    return tokens, log_q


def same(one: ExactResult, other: ExactResult, within: float = 1e-9) -> None:
    assert (one.prompt, one.tokens, one.finished, one.layers) == (
        other.prompt,
        other.tokens,
        other.finished,
        other.layers,
    )
    for name in ("log_q", "log_p", "kl", "kl_fused", "gap"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=within, nan_ok=True), name
    assert one.detoxed.tolist() == other.detoxed.tolist() and one.debiased.tolist() == other.debiased.tolist()


# What must not change


@pytest.mark.parametrize(("kind", "optimiser"), [*((kind, "adam") for kind in KINDS), ("llama", "natural")])
def test_a_zero_learning_rate_is_plain_decoding_token_for_token(kind: str, optimiser: str):
    model = small(kind)
    settings = replace(BOTH, learning_rate=0.0, optimiser=optimiser)
    results = uddia(model, settings).generate(PROMPTS, max_tokens=6, seed=11)
    for k, result in enumerate(results):
        tokens, log_q = plain(model, PROMPTS[k], derive_seed(11, k), 6, settings.top_p)
        assert list(result.tokens) == tokens and result.finished == (len(log_q) > len(tokens))
        assert result.log_q == pytest.approx(log_q, abs=1e-9)
        assert result.kl_fused == pytest.approx(0, abs=1e-9) and result.kl == pytest.approx(result.log_q - result.log_p)
    # The twin: with a learning rate other tokens are drawn.
    moved = uddia(model, BOTH).generate(PROMPTS, max_tokens=6, seed=11)
    assert [result.tokens for result in moved] != [result.tokens for result in results]


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_after_a_step_is_that_of_plain_decoding(kind: str):
    model = small(kind)
    adapted = uddia(model, replace(BOTH, learning_rate=5.0))
    offsets = Offsets(model, 2)
    prompts, more = [[1, 2, 3], [4, 5]], [[6, 7], [8, 9]]
    seen = adapted._begin(prompts, offsets)
    for tokens in torch.tensor(more).T:
        laws = adapted._laws(seen, offsets)
        assert laws.kl_fused.min() > 0.01, "nothing was tuned"
        seen = adapted._read(seen, tokens, offsets)
    with torch.no_grad():
        for row, read in enumerate([*a, *b] for a, b in zip(prompts, more, strict=True)):
            past = model.read(None, model.padded([read])).past
            held = seen.step.past.rows(torch.tensor([row]))
            for kept, fresh in zip(_tensors(held), _tensors(past), strict=True):
                assert torch.allclose(kept[:, :, -len(read) :], fresh, atol=1e-12)
    assert all(not tensor.requires_grad for tensor in _tensors(seen.step.past))


def _tensors(past: Past) -> tuple[torch.Tensor, ...]:
    return past.keys + past.values


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_hooks_are_as_before(kind: str):
    model = small(kind)
    stored = {name: weight.clone() for name, weight in model._model.named_parameters()}
    uddia(model, BOTH).generate(PROMPTS, max_tokens=3)
    assert all(torch.equal(weight, stored[name]) for name, weight in model._model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model._model.modules())


@pytest.mark.parametrize(
    ("kind", "settings", "within"),
    [
        *((kind, BOTH, 1e-9) for kind in KINDS),
        ("llama", ARMS["t"], 1e-9),
        ("llama", ARMS["b"], 1e-9),
        ("gpt2", replace(BOTH, as_released=True, steps=2), 1e-9),
        # Conjugate gradients lose orthogonality, and with it half of the digits.
        ("llama", replace(BOTH, optimiser="natural"), 1e-5),
    ],
)
def test_a_batch_is_its_rows_alone(kind: str, settings: ExactSettings, within: float):
    """Prompts of four lengths, some of which end early, in one batch, one by one, and one as a list of its own."""
    # Four ends of a text, so that some come soon.
    model = small(kind, Vocabulary((*LETTERS.tokens[:12], b"", b"", b"", b""), (15, 12, 13, 14), 16))
    adapted = uddia(model, settings)
    batch = adapted.generate(PROMPTS, max_tokens=6, seed=6)
    assert any(result.finished for result in batch) and any(not result.finished for result in batch)
    for one, other in zip(batch, adapted.generate(PROMPTS, max_tokens=6, seed=6, batch_size=1), strict=True):
        same(one, other, within)
    same(batch[3], adapted.generate([PROMPTS[3]], max_tokens=6, seed=derive_seed(6, 3))[0], within)


# What it must do


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arm", sorted(ARMS))
def test_the_gradient_is_that_of_finite_differences(kind: str, arm: str):
    """At offsets away from zero, where the KL term has a gradient too; along every eleventh axis."""
    model = small(kind)
    adapted, offsets = uddia(model, replace(ARMS[arm], kl=0.3, debias_gap=0.0)), Offsets(model, 2)
    seen, rows = adapted._begin([[1, 2, 3], [4]], offsets), torch.tensor([0, 1])
    base, detoxed = model.logprobs(seen.step.hidden[:, 0]), torch.tensor([True, True])
    torch.manual_seed(5)
    values = 0.1 * torch.randn(2, offsets.width, dtype=torch.float64)

    def loss(at: torch.Tensor) -> torch.Tensor:
        return adapted._objective(at, seen, rows, base, detoxed, offsets)[0]

    leaf = values.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    assert float(gradient.abs().max()) > 1e-2
    for axis in range(0, offsets.width, 11):
        by = torch.zeros_like(values)
        by[:, axis] = 1e-5
        with torch.no_grad():
            slope = (loss(values + by) - loss(values - by)) / 2e-5
        # A row's loss depends on its own offsets only: both are moved at once.
        assert slope.numpy() == pytest.approx(gradient[:, axis].numpy(), abs=1e-8)


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("arm", ["t", "u"])
def test_the_law_is_the_methods_own_on_gpt2s_biases(arm: str, as_released: bool):
    """The method written out for one text: the model's biases themselves are trained by torch's Adam, then put back."""
    model = small("gpt2")
    settings = replace(ARMS[arm], as_released=as_released, debias_gap=0.0)
    (result,) = uddia(model, settings).generate([[1, 2, 3]], max_tokens=4, seed=2)
    tokens = [*result.tokens, *[model.vocabulary.eos] * result.finished]
    assert len(tokens) >= 3
    for position, token in enumerate(tokens):
        law = by_hand(model, [1, 2, 3], tokens[:position], settings)
        assert result.log_q[position] == pytest.approx(law[token], abs=1e-7)


def by_hand(model: TorchModel, prompt: list[int], drawn: list[int], settings: ExactSettings) -> np.ndarray:
    """log q of the next token: float64 [V]"""
    lm, tokens, shares = copy.deepcopy(model._model), [*prompt, *drawn], groups(model)
    biases = [p for n, p in lm.named_parameters() if n.endswith("bias") and ("h.1." in n or "h.2." in n or "ln_f" in n)]
    originals = [bias.detach().clone() for bias in biases]
    cached = lm(torch.tensor([tokens]), use_cache=True)
    states = lm.base_model(torch.tensor([tokens])).last_hidden_state[0].detach()
    before = lm(torch.tensor([tokens[:-1]]), use_cache=True).past_key_values
    total = states.sum(dim=0)
    if settings.as_released and drawn:
        total = total + states[: len(prompt) - 1].sum(dim=0)
    for bias in biases:
        bias.requires_grad_()
    optimiser = torch.optim.Adam(biases, settings.learning_rate)
    logits = lm(torch.tensor([tokens[-1:]]), past_key_values=copy.deepcopy(before)).logits[0, -1]
    soft = torch.softmax(logits, -1) @ lm.transformer.wte.weight.detach()
    ahead = lm.base_model(inputs_embeds=soft[None, None], past_key_values=copy.deepcopy(cached.past_key_values))
    mean = (total + ahead.last_hidden_state[0, -1]) / (len(tokens) + 1)
    odds = mean @ torch.from_numpy(head().weight) + head().bias
    loss = -torch.log(1 - torch.sigmoid(odds)) * settings.detox
    if settings.debias and not settings.as_released:
        alone = torch.softmax(shares.vectors / 0.1, -1)
        context = shares.vectors[tokens].sum(dim=0)
        joint = torch.softmax((context + shares.vectors) / (len(tokens) + 1) / 0.1, -1)
        cost = (joint * (joint / alone).log()).sum(-1) + 0.5 * (alone * (2 * alone).log()).sum(-1)
        loss = loss + settings.debias * (torch.softmax(logits, -1) * cost).sum()
    elif settings.debias:
        loss = loss + settings.debias * loss
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        tuned = torch.softmax(lm(torch.tensor([tokens[-1:]]), past_key_values=copy.deepcopy(before)).logits[0, -1], -1)
        for bias, original in zip(biases, originals, strict=True):
            bias.copy_(original)
        own = torch.softmax(lm(torch.tensor([tokens])).logits[0, -1], -1)
    law = (tuned**settings.fusion * own ** (1 - settings.fusion)).numpy()
    counted = law if settings.as_released else law / law.sum()
    order = np.argsort(-counted, kind="stable")
    law[order[np.cumsum(counted[order]) - counted[order] > settings.top_p]] = 0
    with np.errstate(divide="ignore"):
        return np.log(law / law.sum())


def test_as_released_has_no_debias_loss_of_its_own():
    """Where it acts it is 5 % more of the detox loss, which Adam does not see; corrected, it moves the law."""
    model = small("gpt2")
    unified, detox = replace(BOTH, debias_gap=0.0), ARMS["t"]
    laws = {
        (as_released, name): np.exp(uddia(model, replace(settings, as_released=as_released)).next_logprobs([1, 2, 3]))
        for as_released in (True, False)
        for name, settings in (("u", unified), ("t", detox))
    }
    assert laws[True, "u"] == pytest.approx(laws[True, "t"], abs=1e-5)
    assert np.abs(laws[False, "u"] - laws[False, "t"]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimiser", sorted(OPTIMISERS))
@pytest.mark.parametrize("arm", sorted(ARMS))
def test_a_short_step_lowers_the_loss_of_every_row(kind: str, optimiser: str, arm: str):
    model = small(kind)
    adapted, offsets = uddia(model, replace(ARMS[arm], debias_gap=0.0)), Offsets(model, 2)
    seen, rows = adapted._begin(PROMPTS, offsets), torch.arange(len(PROMPTS))
    base, detoxed = model.logprobs(seen.step.hidden[:, 0]), torch.ones(len(PROMPTS), dtype=torch.bool)
    values = torch.zeros(len(PROMPTS), offsets.width, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        before, logprobs, _ = adapted._objective(values, seen, rows, base, detoxed, offsets)
        (gradient,) = torch.autograd.grad(before.sum(), values, retain_graph=True)
        geometry = adapted._geometry(values, logprobs, seen, rows, offsets)
        change = OPTIMISERS[optimiser](1e-4).change(gradient, geometry)
        after, _, _ = adapted._objective(change, seen, rows, base, detoxed, offsets)
    assert bool((after < before).all())


def test_a_natural_step_costs_its_kl():
    """KL(q ‖ p) of the tuned law is the learning rate, to second order, on the model's own Fisher information."""
    model = small("llama")
    settings = replace(ARMS["u"], optimiser="natural", learning_rate=1e-4, fusion=1.0, top_p=1.0)
    results = uddia(model, settings).generate(PROMPTS, max_tokens=1)
    assert [float(result.kl[0]) for result in results] == pytest.approx([1e-4] * len(PROMPTS), rel=0.05)
    # Far from there, where the second order is not the whole, it costs no more.
    far = uddia(model, replace(settings, learning_rate=0.5)).generate(PROMPTS, max_tokens=1)
    assert all(0.05 < float(result.kl[0]) <= 0.5 * EXCESS for result in far)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reported_law_is_the_law_drawn_from(kind: str):
    """log q of each token is that of `next_logprobs` after its prefix; draws of one step are as frequent as it says."""
    model = small(kind)
    adapted = uddia(model, replace(BOTH, learning_rate=0.3))
    for result in adapted.generate(PROMPTS, max_tokens=4, seed=9):
        drawn = [*result.tokens, *[model.vocabulary.eos] * result.finished]
        for position, token in enumerate(drawn):
            prefix = [*result.prompt, *drawn[:position]]
            assert result.log_q[position] == pytest.approx(adapted.next_logprobs(prefix)[token], abs=1e-8)
            assert result.log_p[position] == pytest.approx(model.next_logprobs(prefix)[token], abs=1e-9)
    law = np.exp(adapted.next_logprobs(PROMPTS[0]))
    assert law.sum() == pytest.approx(1) and bool((law == 0).any())
    draws = adapted.generate([PROMPTS[0]], max_tokens=1, seed=1, samples=2000, batch_size=500)
    hits = np.eye(16)[[result.tokens[0] if result.tokens else model.vocabulary.eos for result in draws]]
    assert bool((np.abs(hits.mean(axis=0) - law) <= radius(hits, alpha=1e-6, checks=16)).all())
    # The twin: the law before it was tuned is told apart.
    untuned = np.exp(nucleus(model.next_logprobs(PROMPTS[0])[None], BOTH.top_p)[0])
    assert bool((np.abs(hits.mean(axis=0) - untuned) > radius(hits, alpha=1e-6, checks=16)).any())


def test_losses_act_where_their_triggers_say():
    model = small("llama")
    results = uddia(model, BOTH).generate(PROMPTS, max_tokens=8, seed=3)
    debiased, gaps = (np.concatenate([getattr(result, name) for result in results]) for name in ("debiased", "gap"))
    assert debiased.tolist() == (gaps > BOTH.debias_gap).tolist() and 0 < debiased.sum() < len(debiased)
    assert all(result.detoxed.all() for result in results)
    # Below its share the detox loss is silent, and with both silent the law is plain.
    quiet = replace(BOTH, debias_gap=1.0, detox_share=0.5)
    for result in uddia(model, quiet).generate(PROMPTS, max_tokens=8, seed=3):
        assert not result.debiased.any()
        assert result.kl_fused[~result.detoxed] == pytest.approx(0, abs=1e-12)
        assert bool((result.kl_fused[result.detoxed] > 0).all())
    shares = np.concatenate([result.detoxed for result in uddia(model, quiet).generate(PROMPTS, max_tokens=8, seed=3)])
    assert 0 < shares.sum() < len(shares)


# Redo


def test_no_steps_is_plain_decoding():
    model = small("llama")
    for k, result in enumerate(uddia(model, replace(BOTH, steps=0)).generate(PROMPTS, max_tokens=4, seed=1)):
        tokens, log_q = plain(model, PROMPTS[k], derive_seed(1, k), 4, BOTH.top_p)
        assert list(result.tokens) == tokens and result.log_q == pytest.approx(log_q, abs=1e-9)
        assert not result.detoxed.any() and not result.debiased.any() and bool((result.gap > 0).all())


def test_redo_keeps_the_attempt_of_least_perplexity():
    model = small("llama")
    settings = replace(BOTH, layers=3, redo_layers=1, learning_rate=1.0)
    once = uddia(model, settings).generate(PROMPTS, max_tokens=6, seed=4)
    limit = float(np.median([result.perplexity for result in once]))
    results = uddia(model, replace(settings, redo_perplexity=limit)).generate(PROMPTS, max_tokens=6, seed=4)
    for first, result in zip(once, results, strict=True):
        layers, perplexities = zip(*result.attempts, strict=True)
        assert layers == (3, 2, 1)[: len(layers)] and perplexities[0] == pytest.approx(first.perplexity)
        assert result.perplexity == min(perplexities)
        assert result.layers == layers[perplexities.index(min(perplexities))]
        assert all(perplexity > limit for perplexity in perplexities[:-1])
        assert len(layers) == 3 or perplexities[-1] <= limit
        if first.perplexity <= limit:
            same(replace(result, attempts=()), replace(first, attempts=()))
    assert any(len(result.attempts) == 1 for result in results) and any(len(result.attempts) > 1 for result in results)


def test_another_attempt_draws_other_numbers():
    """With nothing to tune all attempts have the same law: only their random numbers tell them apart."""
    model = small("llama")
    settings = replace(BOTH, layers=3, redo_layers=1, learning_rate=0.0, redo_perplexity=1.0)
    (result,) = uddia(model, settings).generate([[1, 2, 3]], max_tokens=6, seed=4)
    assert len({perplexity for _, perplexity in result.attempts}) == 3


# Bad input


def test_what_is_missing_or_does_not_fit_is_refused():
    model = small("llama")
    with pytest.raises(RequestError, match="detox needs an attribute head"):
        UDDIA(model, ExactSettings(debias=0.0))
    with pytest.raises(RequestError, match="debias needs groups"):
        UDDIA(model, ExactSettings(), head())
    with pytest.raises(RequestError, match="8 weights, made for other, but"):
        UDDIA(model, ExactSettings(debias=0.0), AttributeHead(np.ones(8), 0.0, "other"))
    with pytest.raises(RequestError, match="layers=9: a whole number from 1 to 3"):
        uddia(model, replace(BOTH, layers=9))
    adapted = uddia(model, BOTH)
    for prompts, said in (
        ([[1], []], r"prompts\[1\]: no tokens"),
        ([[1, 16]], "token 1 is 16"),
        ([[1] * 60], "context of 64"),
    ):
        with pytest.raises(RequestError, match=said):
            adapted.generate(prompts, max_tokens=8)
    with pytest.raises(RequestError, match="put the text into a list"):
        adapted.generate("abc")
    with pytest.raises(RequestError, match=r"prompts\[0\]: 1: a text or a list of token ids was wanted"):
        adapted.generate([1, 2])  # type: ignore[list-item]
    with pytest.raises(RequestError, match="no tokenizer"):
        adapted.generate(["abc"])
    for name, value in (("max_tokens", 0), ("samples", True), ("batch_size", 1.5), ("seed", -1)):
        with pytest.raises(RequestError, match=name):
            adapted.generate([[1]], **{name: value})
    assert adapted.generate([]) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("detox", -1.0), ("debias", float("nan")), ("kl", float("inf")), ("learning_rate", True), ("fusion", 1.5),
        ("top_p", 0.0), ("debias_gap", -0.1), ("detox_share", 2), ("redo_perplexity", 0.5), ("steps", -1), ("redo_layers", 0),
        ("optimiser", "sgd"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: object):
    with pytest.raises(RequestError, match=f"{name}="):
        ExactSettings(**{name: value})


def test_as_released_without_detox_is_refused():
    with pytest.raises(RequestError, match="replaces the debias loss"):
        ExactSettings(detox=0.0, as_released=True)


def test_a_loss_without_a_finite_gradient_is_an_error():
    """Weights of finite size that no gradient holds any more."""
    model = small("llama")
    heavy = AttributeHead(np.full(16, -1e308), 0.0, "small")
    with pytest.raises(EngineError, match="no finite gradient"):
        UDDIA(model, ARMS["t"], heavy).generate([[1, 2, 3]])


# The embedded model


@pytest.mark.slow
def test_the_embedded_model_is_tuned_row_by_row(model_path: Path):
    """In float32: two rows together and apart; the cache of one is not seen by the other; text in and text out."""
    model = TorchModel.load(model_path)
    weights = np.random.default_rng(1).normal(size=model.hidden_size) / 10
    adapted = UDDIA(
        model,
        ExactSettings(layers=6, debias_gap=0.0),
        AttributeHead(weights, 0.0, model.name),
        TokenGroups.of_words(model, "gender"),
    )
    prompts = ["The nurse said that", "My brother is"]
    both = adapted.generate(prompts, max_tokens=3, seed=5)
    for k, prompt in enumerate(prompts):
        (alone,) = adapted.generate([prompt], max_tokens=3, seed=derive_seed(5, k))
        assert alone.tokens == both[k].tokens and alone.log_q == pytest.approx(both[k].log_q, abs=0.02)
        assert both[k].detoxed.all() and both[k].debiased.all() and bool((both[k].kl_fused > 0).all())
        assert both[k].text == model.tokenizer.decode(both[k].tokens)
