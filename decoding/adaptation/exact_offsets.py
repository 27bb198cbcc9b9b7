"""What is tuned: vectors that are added behind the biases of a model's top layers, one set of them for each row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decoding.torch_model import TorchModel
from grammars.errors import EngineError, RequestError

# What writes into the residual stream, by its name in Llama, Qwen, GPT-2, OPT and GPT-NeoX: where such a module has no bias,
# a vector added to its output is the bias that it lacks.
_WRITERS = ("o_proj", "down_proj", "c_proj", "out_proj", "fc2", "dense", "dense_4h_to_h")


@dataclass(frozen=True, eq=False)
class Site:
    """A module to whose output an offset is added: as if its bias were another one, for each row its own."""

    name: str
    module: nn.Module
    width: int


class Offsets:
    """The places where a model is tuned: the top T layers and the final norm.

    In a layer these are all modules that have a bias (GPT-2: both norms, both matrices of attention and of the MLP) and those
    that write into the residual stream, biased or not (Llama: o_proj and down_proj).

    layers  T, 1 to the model's. Raises RequestError for another number, EngineError where a layer has no such place.
    """

    def __init__(self, model: TorchModel, layers: int) -> None:
        count = len(model.layers)
        if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= count:
            raise RequestError(
                f"layers={layers!r:.40}: a whole number from 1 to {count}, the layers of {model.name}, was wanted"
            )
        self.layers = layers
        sites: list[Site] = []
        for number in range(count - layers, count):
            own = [
                Site(f"layer {number}: {name}", module, model.hidden_size if module_bias is None else len(module_bias))
                for name, module in model.layers[number].named_modules()
                for module_bias in [_bias(module)]
                if module_bias is not None or name.rpartition(".")[2] in _WRITERS
            ]
            if not own:
                raise EngineError(
                    f"{model.name}: layer {number} has no bias, nor a module named {', '.join(_WRITERS)}: nothing to be tuned"
                )
            sites += own
        sites.append(Site("final norm", model.final_norm, model.hidden_size))
        self.sites = tuple(sites)

    @property
    def width(self) -> int:
        """P, the numbers that are tuned in a row."""
        return sum(site.width for site in self.sites)

    @contextmanager
    def added(self, offsets: Tensor) -> Iterator[None]:
        """While this lasts, passes over these very rows add their offsets, at each position they read.

        offsets  [rows, P], the sites' one after the other
        """
        parts = offsets.split([site.width for site in self.sites], dim=1)
        hooks = [site.module.register_forward_hook(_adding(part)) for site, part in zip(self.sites, parts, strict=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _bias(module: nn.Module) -> Tensor | None:
    own: Any = module._parameters.get("bias")
    return own


def _adding(part: Tensor) -> Any:
    def added(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        assert output.dim() == 3 and len(output) == len(part), "offsets are added to passes over their own rows"
        return output + torch.unsqueeze(part, 1)

    return added
