"""Where a model is tuned, and that an offset is a changed bias."""

from __future__ import annotations

import copy

import pytest
import torch

from decoding.adaptation.exact_offsets import Offsets
from decoding.torch_model import TorchModel
from grammars.errors import EngineError, RequestError
from tests.decoding.small_models import KINDS, small


def logits(model: TorchModel, rows: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.read(None, model.padded(rows)).hidden)


def names(offsets: Offsets) -> list[str]:
    return [site.name for site in offsets.sites]


def test_all_biases_of_the_top_layers_are_tuned_where_there_are_any():
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    offsets = Offsets(small("gpt2"), 2)
    assert names(offsets) == [f"layer {layer}: {part}" for layer in (1, 2) for part in parts] + ["final norm"]
    assert offsets.width == 2 * (16 + 48 + 16 + 16 + 64 + 16) + 16


def test_what_writes_into_the_residual_stream_is_tuned_where_it_has_no_bias():
    assert names(Offsets(small("llama"), 1)) == ["layer 2: self_attn.o_proj", "layer 2: mlp.down_proj", "final norm"]
    projections = [f"layer 2: self_attn.{part}_proj" for part in "qkvo"]
    assert names(Offsets(small("qwen2"), 1)) == [*projections, "layer 2: mlp.down_proj", "final norm"]


def test_an_offset_is_a_changed_bias_of_its_row():
    """GPT-2: each row's logits are those of a copy whose biases have been changed by that row's offsets."""
    model = small("gpt2")
    offsets = Offsets(model, 2)
    torch.manual_seed(3)
    values = torch.randn(2, offsets.width, dtype=torch.float64)
    prompts = [[1, 2, 3], [4, 5, 6]]
    plain = logits(model, prompts)
    with offsets.added(values):
        changed = logits(model, prompts)
    assert torch.equal(logits(model, prompts), plain), "nothing stays behind"
    for row in range(2):
        twin = TorchModel(copy.deepcopy(model._model), model.vocabulary)
        for site, own in zip(
            Offsets(twin, 2).sites, values[row].split([site.width for site in offsets.sites]), strict=True
        ):
            with torch.no_grad():
                site.module.bias.add_(own)
        assert torch.allclose(logits(twin, [prompts[row]])[0], changed[row], atol=1e-10)
        assert not torch.allclose(plain[row], changed[row], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_of_zero_change_no_bit(kind: str):
    model = small(kind)
    offsets = Offsets(model, 3)
    plain = logits(model, [[1, 2, 3], [4]])
    with offsets.added(torch.zeros(2, offsets.width, dtype=torch.float64)):
        assert torch.equal(logits(model, [[1, 2, 3], [4]]), plain)


def test_an_error_inside_leaves_nothing_behind():
    model = small("llama")
    offsets = Offsets(model, 1)
    plain = logits(model, [[1]])
    with pytest.raises(ZeroDivisionError), offsets.added(torch.ones(1, offsets.width, dtype=torch.float64)):
        raise ZeroDivisionError
    assert torch.equal(logits(model, [[1]]), plain)


@pytest.mark.parametrize("layers", [0, 4, -1, True, 1.5, None])
def test_layers_out_of_range_are_refused(layers: object):
    with pytest.raises(RequestError, match="from 1 to 3, the layers of"):
        Offsets(small("llama"), layers)  # type: ignore[arg-type]


def test_layers_without_a_place_to_tune_are_refused():
    model = small("llama")
    for layer in model.layers:
        for name in [name for name, _ in layer.named_children()]:
            setattr(layer, name, torch.nn.Identity())
    with pytest.raises(EngineError, match="layer 2 has no bias"):
        Offsets(model, 1)
