"""A pickle is read for its data, and none of its code is run."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from decoding.adaptation.inert_pickle import Inert, read_pickle
from grammars.errors import EngineError


class Tokenizer:
    """A class with a constructor and a setter that must not run."""

    def __init__(self) -> None:
        self.index, self.counts = {"a": 1}, collections.defaultdict(int, {"a": 2})

    def __setstate__(self, state: object) -> None:
        raise AssertionError("code of the pickle's own class ran")


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.made),)


CLASS = f"{Tokenizer.__module__}.Tokenizer"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_attributes_of_a_known_class_are_read_and_its_code_is_not_run(tmp_path: Path, protocol: int):
    path = tmp_path / "tokenizer.pickle"
    path.write_bytes(pickle.dumps(Tokenizer(), protocol=protocol))
    found = read_pickle(path, {CLASS})
    assert type(found) is Inert
    assert vars(found) == {"index": {"a": 1}, "counts": {"a": 2}}


def test_a_class_that_nobody_named_is_refused(tmp_path: Path):
    path = tmp_path / "tokenizer.pickle"
    path.write_bytes(pickle.dumps(Tokenizer()))
    with pytest.raises(EngineError, match=rf"tokenizer.pickle wants '{CLASS}'"):
        read_pickle(path)


def test_a_function_hidden_in_a_pickle_is_not_called(tmp_path: Path):
    path, made = tmp_path / "weights.pickle", tmp_path / "made"
    path.write_bytes(pickle.dumps({"weights": [Attack(made)]}))
    with pytest.raises(EngineError, match="mkdir"):
        read_pickle(path, {CLASS})
    assert not made.exists()
    pickle.loads(path.read_bytes())
    assert made.exists()  # so the attack is one


def test_an_array_of_objects_is_refused(tmp_path: Path):
    path = tmp_path / "array.pickle"
    path.write_bytes(pickle.dumps(np.dtype(object)))
    with pytest.raises(EngineError, match="'O8'"):
        read_pickle(path)


def test_the_types_that_a_pickle_gives_a_byte_order_are_not_those_of_the_process(tmp_path: Path):
    path = tmp_path / "type.pickle"
    path.write_bytes(pickle.dumps(np.dtype(">f8")))
    assert read_pickle(path) == np.dtype(">f8")
    assert np.dtype("f8").isnative


@pytest.mark.parametrize("keep", [0, 10, 40])
def test_a_cut_file_is_named(tmp_path: Path, keep: int):
    path = tmp_path / "tokenizer.pickle"
    path.write_bytes(pickle.dumps(Tokenizer())[:keep])
    with pytest.raises(EngineError, match=r"cannot read .*tokenizer\.pickle"):
        read_pickle(path, {CLASS})
