"""Where the row samplers of this process leave their posts for the worker extension to send on."""

from __future__ import annotations

import weakref

from decoding.row_sampler import Post, RowSampler

_samplers: weakref.WeakSet[RowSampler] = weakref.WeakSet()


def publish(sampler: RowSampler) -> None:
    """Have a sampler's posts sent on, for as long as it lives."""
    _samplers.add(sampler)


def drain() -> dict[tuple[str, int], Post]:
    """What this process's model runners posted since the last call."""
    posts: dict[tuple[str, int], Post] = {}
    for sampler in _samplers:
        posts.update(sampler.take_posts())
    return posts
