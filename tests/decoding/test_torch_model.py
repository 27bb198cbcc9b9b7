"""A torch model's laws, its passes over padded rows, and its top layers run again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from decoding.table_model import rollout
from decoding.torch_model import Step, TorchModel
from grammars.errors import EngineError, RequestError
from grammars.regex import Regex
from grammars.registry import compile_cached
from grammars.vocabulary import Vocabulary
from samplers.smc import SMC
from samplers.token_samplers import token_sampler
from tests.decoding.small_models import KINDS, LETTERS, small


def whole(model: TorchModel, prefix: list[int]) -> np.ndarray:
    """The law of the next token, by transformers' own forward pass."""
    with torch.no_grad():
        logits = model._model(torch.tensor([prefix])).logits[0, -1]
    return torch.log_softmax(logits.double(), dim=-1).numpy()


def read_one_by_one(model: TorchModel, tokens: list[int], top: int = 0) -> tuple[Step, Step | None]:
    """The last step, and the one before it."""
    step: Step | None = None
    before: Step | None = None
    for token in tokens:
        before = step
        given = torch.tensor([[token]])
        step = model.read(step.past if step else None, (given, torch.ones_like(given, dtype=torch.bool)), top)
    assert step is not None
    return step, before


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_law_is_the_models_own(kind: str):
    model = small(kind)
    for prefix in ([3], [1, 2, 3, 4, 5], [7, 7, 0, 15, 2]):
        logprobs = model.next_logprobs(prefix)
        assert logprobs.dtype == np.float64 and np.exp(logprobs).sum() == pytest.approx(1, abs=1e-12)
        assert logprobs == pytest.approx(whole(model, prefix), abs=1e-12)
        assert np.exp(logprobs).max() > 2 / 16, "a model this near to uniform tests nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_padded_rows_read_as_they_do_alone(kind: str):
    """Rows of 5, 1 and 0 tokens side by side, then one more each."""
    model = small(kind)
    prompts, more = [[1, 2, 3, 4, 5], [6], []], torch.tensor([[7], [8], [9]])
    with torch.no_grad():
        past = model.read(None, model.padded(prompts)).past
        step = model.read(past, (more, torch.ones_like(more, dtype=torch.bool)))
        logprobs = model.logprobs(step.hidden[:, -1]).numpy()
    for row, prompt in enumerate(prompts):
        assert logprobs[row] == pytest.approx(whole(model, [*prompt, int(more[row, 0])]), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", [1, 3])
def test_the_top_layers_again_give_the_same_and_leave_the_past_alone(kind: str, top: int):
    model = small(kind)
    with torch.no_grad():
        past = model.read(None, model.padded([[1, 2, 3], [4]])).past
        more = torch.tensor([[5], [6]])
        step = model.read(past, (more, torch.ones_like(more, dtype=torch.bool)), top)
        stored = [tensor.clone() for tensor in (*past.keys, *past.values, *step.past.keys, *step.past.values)]
        again = model.again(step, past, torch.tensor([0, 1]))
        assert torch.equal(again, step.hidden)
        assert torch.allclose(model.again(step, past, torch.tensor([1])), step.hidden[1:], atol=1e-12)
        now = (*past.keys, *past.values, *step.past.keys, *step.past.values)
        assert all(torch.equal(a, b) for a, b in zip(stored, now, strict=True))
        # The twin: a changed top layer does show.
        with torch.no_grad():
            next(model.layers[-1].parameters()).mul_(1.5)
        assert not torch.allclose(model.again(step, past, torch.tensor([0, 1])), step.hidden)


def test_every_end_is_the_first_one():
    vocabulary = Vocabulary((*LETTERS.tokens[:14], b"", b""), (15, 14), 16)
    model, plain = small("llama", vocabulary), small("llama")
    law, own = np.exp(model.next_logprobs([1, 2])), np.exp(plain.next_logprobs([1, 2]))
    assert law[15] == pytest.approx(own[14] + own[15]) and law[14] == 0
    assert law[:14] == pytest.approx(own[:14])


def test_the_samplers_take_it_for_any_language_model():
    """One text is allowed: the estimate of log Z is its log probability, the end included."""
    model = small("llama")
    a, b = model.vocabulary.tokens.index(b"a"), model.vocabulary.tokens.index(b"b")
    drawn = rollout(
        model, compile_cached(Regex("ab"), model.vocabulary), SMC(2, seed=0), token_sampler("masked"), 3, prompt=[4, 2]
    )
    laws = [model.next_logprobs(prefix) for prefix in ([4, 2], [4, 2, a], [4, 2, a, b])]
    assert drawn.tokens == ((a, b), (a, b))
    assert drawn.log_z == pytest.approx(laws[0][a] + laws[1][b] + laws[2][model.vocabulary.eos])


def test_what_the_model_cannot_read_is_refused():
    model = small("gpt2")
    for prefix, said in (
        ([], "no tokens"),
        ([1, 99], "token 1 is 99"),
        ([-1], "token 0 is -1"),
        ([1.0], "token 0 is 1.0"),
        ([1] * 65, "context of 64"),
    ):
        with pytest.raises(RequestError, match=said):
            model.next_logprobs(prefix)
    with pytest.raises(RequestError, match="no tokenizer"):
        model.encode("text")
    with pytest.raises(EngineError, match="16 columns of logits, but the vocabulary has 17"):
        TorchModel(model._model, Vocabulary(LETTERS.tokens, (15,), 17))
    with pytest.raises(RequestError, match="float32, float64 or bfloat16"):
        TorchModel.load(dtype="int8")


def test_logits_that_are_no_numbers_are_an_error():
    model = small("llama")
    with torch.no_grad():
        model.final_norm.weight.fill_(torch.nan)
    with pytest.raises(EngineError, match="not numbers"):
        model.next_logprobs([1])


def test_an_architecture_with_other_parts_is_refused():
    """Gemma scales its embeddings, caps its logits and slides its attention; BLOOM keeps a norm of its own at its embeddings."""
    import transformers

    shape = {
        "vocab_size": 16,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.Gemma2Config(**shape, num_key_value_heads=1, head_dim=8, pad_token_id=0)
    with pytest.raises(EngineError, match="only full attention"):
        TorchModel(transformers.Gemma2ForCausalLM(config), LETTERS)
    gemma = transformers.GemmaConfig(**shape, num_key_value_heads=1, head_dim=8, initializer_range=0.5, pad_token_id=0)
    with pytest.raises(EngineError, match="its embedding alone do not give its logits"):
        TorchModel(transformers.GemmaForCausalLM(gemma), LETTERS)
    granite = transformers.GraniteConfig(**shape, num_key_value_heads=1, logits_scaling=8.0, initializer_range=0.5)
    with pytest.raises(EngineError, match="do not give its logits"):
        TorchModel(transformers.GraniteForCausalLM(granite), LETTERS)


@pytest.mark.slow
def test_the_embedded_model_is_read_as_transformers_reads_it(model_path: Path):
    model = TorchModel.load(model_path)
    tokens = model.encode("The nurse said that")
    assert model.next_logprobs(tokens) == pytest.approx(whole(model, tokens), abs=1e-4)
    assert model.vocabulary.bytes_of(int(np.argmax(model.next_logprobs(tokens)))) == b" the"
    with torch.no_grad():
        last, before = read_one_by_one(model, tokens, 15)
        assert before is not None
        assert torch.equal(model.again(last, before.past, torch.tensor([0])), last.hidden)
