"""JSON as requests may bring it: stricter than Python's own reader, and of a bounded depth that is known before it is read."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

DEEPEST_JSON = 256
# Bytes looked at together: what numpy makes of them stays in the processor's cache.
_PIECE = 1 << 15
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(given: bytes | str) -> Any:
    """The value of a JSON document; ValueError says what is wrong with it.

    What Python's reader lets through and the standard does not is refused: numbers that are none, and halves of characters,
    which no text of a model has. So is a key that comes twice, of which Python keeps the last: of two constraints it would
    drop one unseen.
    """
    text = given.decode("utf-8-sig") if isinstance(given, bytes) else given
    # A first estimate costs nothing, and no usual body is near the bound.
    if text.count("[") + text.count("{") > DEEPEST_JSON and depth(text.encode("utf-8", "replace")) > DEEPEST_JSON:
        raise ValueError(f"nested more than {DEEPEST_JSON} deep")
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise ValueError("a whole number of thousands of digits") from None
        raise
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a character (a lone surrogate) is no text") from None
    return value


def depth(document: bytes) -> int:
    """How deep JSON is nested; brackets in strings do not count. Linear in its length, whatever is in it: some 10 ns a byte.

    Of what is no JSON it is the depth up to the first mistake, at least.
    """
    # Pairs of backslashes first: what is before a quote then is an escape of it.
    bare = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = now = deepest = 0
    for start in range(0, len(bare), _PIECE):
        characters = np.frombuffer(bare, np.uint8, min(_PIECE, len(bare) - start), start)
        inside = np.cumsum(characters == ord('"'), dtype=np.int32) + quotes
        # [ and {, and ] and }, are one bit apart.
        folded = np.where(inside & 1, 0, characters | 0x20)
        depths = np.cumsum((folded == ord("{")).astype(np.int8) - (folded == ord("}")), dtype=np.int32) + now
        quotes, now, deepest = int(inside[-1]) & 1, int(depths[-1]), max(deepest, int(depths.max()))
    return deepest


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} comes twice in one object")
    return made
