"""UDDIA on the embedded model, with a head trained once on the scored texts."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache

from bench.harness import DATA, ROOT
from decoding.adaptation.attribute_head import AttributeHead
from decoding.adaptation.exact import UDDIA
from decoding.adaptation.exact_groups import TokenGroups
from decoding.adaptation.exact_settings import ExactSettings
from decoding.torch_model import TorchModel

HEAD = ROOT / ".cache" / "uddia-head.npz"
# The paper's weights; t has no debias loss, b no detox loss.
SETTINGS = {
    "t": ExactSettings(debias=0.0),
    "b": ExactSettings(detox=0.0),
    "u": ExactSettings(),
}


@lru_cache(maxsize=1)
def model() -> TorchModel:
    return TorchModel.load()


def uddia_of(kind: str) -> UDDIA:
    """The method under the paper's settings; kind: t, b or u."""
    if not HEAD.is_file():
        HEAD.parent.mkdir(parents=True, exist_ok=True)
        texts = DATA / "toxicity" / "scored_text.jsonl"
        command = [
            sys.executable,
            "-m",
            "decoding.adaptation.attribute_head",
            "--texts",
            str(texts),
            "--output",
            str(HEAD),
        ]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    head = AttributeHead.load(HEAD) if kind in "tu" else None
    groups = TokenGroups.of_words(model(), "gender") if kind in "bu" else None
    return UDDIA(model(), SETTINGS[kind], head, groups)
