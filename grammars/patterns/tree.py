"""Patterns of the `regex` module as trees: parsed by the module's own parser, compiled by its own compiler.

The module says what a pattern means; what is asked of it here (is a text a viable prefix, which class of characters is
this) needs its tree. So `parse` and `build` are the two halves of its `_main._compile`, with nothing in between.
Source: mrab-regex, regex/_main.py and regex/_regex_core.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import regex
from regex import _regex
from regex import _regex_core as core

from grammars.errors import GrammarError

# Every character a text can have; surrogates are none.
_BELOW, _ABOVE = 0xD800, 0xE000
_CHARACTERS = "".join(map(chr, [*range(_BELOW), *range(_ABOVE, 0x110000)]))


def parse(pattern: str) -> tuple[Any, Any]:
    """The tree of a pattern and the parser's notes on it. Raises GrammarError naming the position."""
    flags = 0
    try:
        # Once more, as the module does, when a flag in the middle turns out to hold for the whole pattern.
        while True:
            source = core.Source(pattern)
            info = core.Info(flags, source.char_type, {})
            info.guess_encoding = regex.UNICODE
            source.ignore_space = bool(info.flags & regex.VERBOSE)
            try:
                tree = core._parse_pattern(source, info)
                break
            except core._UnscopedFlagSet:
                flags = info.global_flags
        if not source.at_end():
            raise regex.error("unbalanced parenthesis", pattern, source.pos)
        if not info.flags & core._ALL_ENCODINGS:
            info.flags |= regex.UNICODE
        # What the module checks beyond its parser: references to groups, conflicts between flags.
        regex.compile(pattern)
    except regex.error as error:
        place = "" if error.pos is None else f" at position {error.pos}"
        raise GrammarError(f"pattern {shown(pattern)} is malformed{place}: {error.msg}") from error
    except (ValueError, KeyError) as error:
        raise GrammarError(f"pattern {shown(pattern)} is malformed: {error}") from error
    except (RecursionError, OverflowError, MemoryError) as error:
        raise GrammarError(
            f"pattern of {len(pattern)} characters is nested or repeated too deeply; simplify it"
        ) from error
    return tree, info


def build(tree: Any, info: Any, pattern: str) -> regex.Pattern[str]:
    """Compile a tree, perhaps changed. It is used up."""
    tree.fix_groups(pattern, False, False)
    tree = tree.optimise(info, False).pack_characters(info)
    offset, characters, flags = core._get_required_string(tree, info.flags)
    core._check_group_features(info, tree)
    code = tree.compile(False)
    whole = info.call_refs.get((0, False, False))
    if whole is not None:
        code = [(core.OP.CALL_REF, whole), *code, (core.OP.END,)]
    code.append((core.OP.SUCCESS,))
    for group, reverse, fuzzy in info.additional_groups:
        code += group.compile(reverse, fuzzy)
    names = {number: name for name, number in info.group_index.items()}
    version = info.flags & core._ALL_VERSIONS or core.DEFAULT_VERSION
    compiled: regex.Pattern[str] = _regex.compile(
        pattern, info.flags | version, core._flatten_code(code), info.group_index, names, {}, [],
        offset, characters, flags, info.group_count,
    )  # fmt: skip
    return compiled


def children(node: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a node by attribute: a node, or a list of nodes."""
    for name in ("subpattern", "yes_item", "no_item", "items", "branches"):
        if hasattr(node, name):
            yield name, getattr(node, name)


def nodes(node: Any) -> Iterator[Any]:
    """A node and all below it, sets of characters as one node."""
    yield node
    if isinstance(node, core.SetBase):
        return
    for _, part in children(node):
        for child in part if isinstance(part, list | tuple) else [part]:
            yield from nodes(child)


def groups_of(tree: Any) -> dict[int, list[Any]]:
    """What each group captures, by its number: several where alternatives share a number. 0 is the whole pattern.

    The tree's groups have their numbers: `fix_groups` has been called.
    """
    groups: dict[int, list[Any]] = {0: [tree]}
    for node in nodes(tree):
        if isinstance(node, core.Group):
            groups.setdefault(node.group, []).append(node.subpattern)
    return groups


def is_class(node: Any) -> bool:
    """Whether a node stands for one character out of a set."""
    return isinstance(node, core.Character | core.Property | core.Range | core.SetBase | core.Any) and not getattr(
        node, "zerowidth", False
    )


def class_ranges(node: Any, info: Any) -> tuple[tuple[int, int], ...]:
    """The characters a class stands for: ascending ranges of code points, both ends included."""
    if type(node) is core.Character and node.positive and not node.case_flags:
        return ((node.value, node.value),)
    node = node.optimise(info, False) if hasattr(node, "optimise") else node
    repeated = core.GreedyRepeat(node, 1, None)
    code = core._flatten_code([*repeated.compile(False), (core.OP.SUCCESS,)])
    return _ranges(tuple(code), info.flags & core._ALL_ENCODINGS)


@lru_cache(maxsize=256)
def _ranges(code: tuple[int, ...], flags: int) -> tuple[tuple[int, int], ...]:
    compiled = _regex.compile("", flags | regex.V0, list(code), {}, {}, {}, [], -1, (), 0, 0)
    ranges: list[tuple[int, int]] = []
    for found in compiled.finditer(_CHARACTERS):
        low, high = found.start(), found.end() - 1
        # Position to code point; a run over the gap of the surrogates is two ranges.
        if low < _BELOW <= high:
            ranges += [(low, _BELOW - 1), (_ABOVE, high + _ABOVE - _BELOW)]
        else:
            gap = _ABOVE - _BELOW if low >= _BELOW else 0
            ranges.append((low + gap, high + gap))
    return tuple(ranges)


def shown(pattern: str) -> str:
    text = repr(pattern)
    return text if len(text) <= 120 else text[:117] + "..."
