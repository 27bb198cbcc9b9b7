"""A set that is a value: adding makes a new one, shares nearly all of the old, and costs the same for large ones."""

from __future__ import annotations

from typing import Any

# Members that a leaf holds before it becomes a branch; a leaf at the last level holds any number.
_LEAF = 8
_LEVELS = 12

# A leaf is a tuple of members, a branch a dict from five bits of the hash to leaves and branches.
Set = tuple[Any, ...] | dict[int, Any]
EMPTY: Set = ()


def contains(members: Set, one: Any) -> bool:
    bits = hash(one)
    while isinstance(members, dict):
        members = members.get(bits & 31, EMPTY)
        bits >>= 5
    return one in members


def add(members: Set, one: Any) -> Set:
    """The set with one more member, which it must not hold yet. Source: Bagwell (2001), "Ideal hash trees"."""
    return _add(members, one, hash(one), 0)


def _add(members: Set, one: Any, bits: int, level: int) -> Set:
    if isinstance(members, tuple):
        if len(members) < _LEAF or level == _LEVELS:
            return (*members, one)
        branch: dict[int, Any] = {}
        for member in members:
            slot = (hash(member) >> (5 * level)) & 31
            branch[slot] = (*branch.get(slot, ()), member)
    else:
        branch = dict(members)
    slot = bits & 31
    branch[slot] = _add(branch.get(slot, EMPTY), one, bits >> 5, level + 1)
    return branch
