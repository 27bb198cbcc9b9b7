"""The data in a pickle, without running any of its code.

A pickle names classes and functions, and to load it is to call them. Here a name is either on a short list of harmless ones, or
the caller's own list of classes that become `Inert`, or an error. So weights that others ship as a pickle can be read, and no
package of theirs need be installed.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from grammars.errors import EngineError

_DTYPES = {"f4", "f8", "i4", "i8", "u1", "b1"}


class Inert:
    """What stands in for an object of another class: its attributes, and nothing that it does."""

    def __init__(self, *arguments: Any) -> None:
        del arguments


def _dtype(code: str, *flags: bool) -> np.dtype[Any]:
    if code not in _DTYPES:
        raise EngineError(f"an array of type {code!r} in a pickle; only {sorted(_DTYPES)} are read")
    # A copy of its own, whose byte order the pickle then sets: the type itself is shared by the whole process.
    return np.dtype(code, False, True)


def _scalar(dtype: np.dtype[Any], raw: bytes) -> Any:
    return np.frombuffer(raw, dtype)[0]


_HARMLESS: Mapping[str, Callable[..., Any]] = {
    "builtins.int": int,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "numpy.ndarray": Inert,  # only ever mentioned, as the class that an array had
    "numpy.float64": Inert,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}


def read_pickle(path: Path, classes: Collection[str] = ()) -> Any:
    """What a pickle or an uncompressed joblib file holds; numpy's arrays are read as such, in joblib's way.

    classes  full names such as package.module.Class whose objects become `Inert`; EngineError for any that is not here
    """
    file = io.BytesIO(path.read_bytes())

    class JoblibArray(Inert):
        """joblib describes an array in the pickle and writes its bytes right after the description: read them in passing."""

        array: np.ndarray

        def __setstate__(self, state: Mapping[str, Any]) -> None:
            if state["numpy_array_alignment_bytes"] is not None:
                file.seek(file.read(1)[0], io.SEEK_CUR)
            dtype, shape = state["dtype"], state["shape"]
            flat = np.frombuffer(file.read(math.prod(shape) * dtype.itemsize), dtype)
            self.array = flat.reshape(shape[::-1]).T if state["order"] == "F" else flat.reshape(shape)

    class Reader(pickle.Unpickler):
        stand_ins: ClassVar[Mapping[str, Callable[..., Any]]] = {
            **_HARMLESS,
            **dict.fromkeys(classes, Inert),
            "joblib.numpy_pickle.NumpyArrayWrapper": JoblibArray,
        }

        def find_class(self, module: str, name: str) -> Any:
            if found := self.stand_ins.get(f"{module}.{name}"):
                return found
            raise EngineError(
                f"{path.name} wants '{module}.{name}', which nothing here runs: it is not the file that is known"
            )

    try:
        # A BytesIO cannot be peeked into, so the reader never takes more than it needs, and the arrays' bytes are left to us.
        return Reader(file).load()
    except EngineError:
        raise
    except Exception as error:  # a cut or altered file can fail in any of these steps
        raise EngineError(
            f"cannot read {path}: {type(error).__name__}: {error}; reinstall what it came with"
        ) from error
