"""Fixtures every test may ask for. Nothing heavy is imported before a test asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from decoding.engine import Engine
    from grammars.vocabulary import Vocabulary

# Fixed examples: a red run is a fact that the next run repeats.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")


# What tests of the model need; several engines and servers may stand side by side.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
# vLLM would bind each of them to the same first core.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run in several processes (`-n 2 --dist loadgroup`), all tests of the shared engine fall to one, all of the server to one."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        servers = {"serving": "serving", "models": "serving", "engine": "engine"}
        group = next((group for name, group in servers.items() if name in fixtures), item.path.name)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def data() -> Path:
    """The shared folder of data sets; the test is skipped where it is not there."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("REWEIGH_DATA") or root.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: put shared/data beside the checkout, or set REWEIGH_DATA")
    return folder


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The embedded model's folder, made on first use."""
    from decoding.embedded_model import embedded_model_path

    return embedded_model_path()


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> PreTrainedTokenizerBase:
    """The embedded model's tokenizer: 49,152 byte-level tokens."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path, local_files_only=True)


@pytest.fixture(scope="session")
def vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The embedded model's tokenizer as bytes."""
    from grammars.vocabulary import vocabulary_from_tokenizer

    return vocabulary_from_tokenizer(tokenizer, len(tokenizer), (tokenizer.eos_token_id,))


@pytest.fixture(scope="session")
def engine(model_path: Path) -> Iterator[Engine]:
    """The one engine all tests share: the embedded model in float32, where a token's law does not depend on its batch."""
    from decoding.engine import Engine

    with Engine(model_path, dtype="float32", max_num_seqs=32, max_model_len=512) as shared:
        yield shared
