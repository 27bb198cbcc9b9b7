"""Transformers of a few small layers with random weights, in float64: large enough weights that their laws are far from uniform."""

from __future__ import annotations

from typing import Any

import torch

from decoding.table_model import letters
from decoding.torch_model import TorchModel
from grammars.vocabulary import Vocabulary

LETTERS = letters("abcdefghijklmno")
_SHAPE = {
    "vocab_size": 16, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.5, "bos_token_id": 0, "eos_token_id": 15,
}  # fmt: skip
KINDS = ("gpt2", "llama", "qwen2")


def small(kind: str, vocabulary: Vocabulary = LETTERS, tokenizer: Any = None, **changes: Any) -> TorchModel:
    """GPT-2 has biases everywhere, Llama none, Qwen2 some. Dropout is on as by default: evaluation has to turn it off."""
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": vocabulary.size}
    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=16, n_layer=3, n_head=2, n_positions=64, initializer_range=0.3, bos_token_id=0, eos_token_id=15,
            **size | changes,
        )  # fmt: skip
        model: Any = transformers.GPT2LMHeadModel(config)
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.3)
    elif kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SHAPE | size | changes))
    else:
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_SHAPE | size | changes))
    return TorchModel(_in_float64(model.double()), vocabulary, tokenizer)


def _in_float64(model: Any) -> Any:
    """RMS norms of transformers compute in float32 whatever they are given: finite differences would see the rounding."""
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                exact = torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon, dtype=torch.float64)
                exact.weight = norm.weight
                setattr(module, name, exact)
    return model
