"""The one-way rule: grammars → samplers → decoding → server, read as "is imported by".

Import lines are read, not run, so that a line inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("grammars", "samplers", "decoding", "server")
NOT_IMPORTED = ("tests", "bench")
# Everything outside the standard library that a pure layer may use.
ALLOWED = {
    "grammars": {
        "numpy",
        "lark",
        "jsonschema",
        "jsonschema_specifications",
        "referencing",
        "idna",
        "llguidance",
        "sqlglot",
        "sqlalchemy",
        "pydantic",
        "regex",
        "partialsmiles",
        "rdkit",
    },
    "samplers": {"numpy"},
}
CLOCKS_THREADS_NETS = {
    "asyncio", "concurrent", "datetime", "http", "multiprocessing", "queue", "random", "sched", "select", "signal",
    "socket", "socketserver", "ssl", "subprocess", "threading", "time", "urllib",
}  # fmt: skip
WEB = {"aiohttp", "fastapi", "flask", "httpx", "requests", "socketserver", "starlette", "uvicorn"}
FORBIDDEN = {
    "grammars": {"http", "random", "socket", "urllib.request"},
    "samplers": CLOCKS_THREADS_NETS,
    "decoding": WEB | {"http"},
    "server": {"llguidance", "torch", "transformers"},
}


@dataclass(frozen=True)
class Import:
    """One imported name: `module` may be a module or a name in one."""

    path: Path
    line: int
    module: str
    at_load: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file; `at_load` is false inside functions and under TYPE_CHECKING."""

    def visit(node: ast.AST, at_load: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield Import(path, node.lineno, name.name, at_load)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for name in names:
                    yield Import(path, node.lineno, f"{module}.{name.name}", at_load)
            case ast.ImportFrom():
                yield Import(path, node.lineno, ".", at_load)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield Import(path, node.lineno, module, at_load)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_load = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            at_load = False
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_load)

    return visit(ast.parse(path.read_text(), str(path)), True)


def broken_rule(layer: str, file: Import) -> str | None:
    """The rule that an import in `layer` breaks, or None."""
    top = file.top
    if top == "":
        return "imports are absolute"
    if top in NOT_IMPORTED:
        return f"nothing imports {top}/"
    if top in LAYERS:
        if LAYERS.index(top) > LAYERS.index(layer):
            return f"{layer}/ is imported by {top}/, never the other way round"
        return None
    for name in FORBIDDEN[layer]:
        if f"{file.module}.".startswith(f"{name}."):
            return f"{layer}/ never hears of {name}"
    if layer in ALLOWED and top not in ALLOWED[layer] and top not in sys.stdlib_module_names:
        return f"{layer}/ uses only {', '.join(sorted(ALLOWED[layer]))} beside the standard library, not {top}"
    if top == "vllm" and layer == "decoding" and not file.path.name.startswith("vllm_"):
        return "only decoding/vllm_*.py imports vLLM"
    return None


def violations(root: Path) -> list[str]:
    """One line a broken rule: file, line, what is imported, the rule. Empty when all is well."""
    found = []
    loads: dict[str, set[str]] = {}
    for layer in LAYERS:
        for path in sorted((root / layer).rglob("*.py")):
            for file in imports_of(path):
                if rule := broken_rule(layer, file):
                    found.append(f"{path.relative_to(root)}:{file.line}: imports {file.module}: {rule}")
                if file.at_load:
                    loads.setdefault(module_name(root, path), set()).add(file.module)
    return found + cycles(root, loads)


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def cycles(root: Path, loads: dict[str, set[str]]) -> list[str]:
    """A cycle among the modules that load each other, if there is one."""
    known = {module_name(root, path) for layer in LAYERS for path in (root / layer).rglob("*.py")}
    graph = {
        module: {
            target
            for name in names
            for target in [name if name in known else name.rpartition(".")[0]]
            if target in known and target != module
        }
        for module, names in loads.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [f"{error.args[1][0].replace('.', '/')}.py: import cycle {' ← '.join(error.args[1])}: no import cycles"]
    return []


def test_the_layers_import_one_way():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("grammars/a.py", "import numpy\nfrom samplers.smc import SMC\n", "grammars/a.py:2: imports samplers.smc.SMC"),
        ("grammars/a.py", "def f():\n    import torch\n", "grammars/a.py:2: imports torch: grammars/ uses only"),
        ("samplers/a.py", "import time\n", "samplers/a.py:1: imports time: samplers/ never hears of time"),
        ("samplers/a.py", "from jsonschema import validate\n", "samplers/a.py:1: imports jsonschema.validate"),
        ("samplers/deep/er/a.py", "import decoding\n", "samplers/deep/er/a.py:1: imports decoding: samplers/ is"),
        ("decoding/a.py", "from fastapi import FastAPI\n", "decoding/a.py:1: imports fastapi.FastAPI"),
        ("decoding/a.py", "from vllm import LLM\n", "only decoding/vllm_*.py imports vLLM"),
        ("decoding/a.py", "import importlib\nimportlib.import_module('server.cli')\n", "decoding/a.py:2: imports"),
        ("server/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n", "server/a.py:3"),
        ("server/a.py", "from bench import tasks\n", "server/a.py:1: imports bench.tasks: nothing imports bench/"),
        ("server/a.py", "from . import b\n", "server/a.py:1: imports .: imports are absolute"),
        ("grammars/a.py", "import grammars.a2\n", None),
        ("decoding/vllm_a.py", "from vllm import LLM\nfrom samplers.smc import SMC\n", None),
    ],
)
def test_a_planted_import_is_judged(tmp_path: Path, file: str, code: str, expected: str | None):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    found = violations(tmp_path)
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1 and expected in found[0], found


def test_a_planted_cycle_is_found(tmp_path: Path):
    (tmp_path / "samplers").mkdir()
    (tmp_path / "samplers/a.py").write_text("from samplers.b import f\n")
    (tmp_path / "samplers/b.py").write_text("import samplers.a\n")
    assert "no import cycles" in violations(tmp_path)[0]
    (tmp_path / "samplers/b.py").write_text("def f():\n    import samplers.a\n")
    assert violations(tmp_path) == []
