"""What an operator has given names, in every process of a vLLM engine that needs it: it rides in its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decoding.potentials import register_partial
from decoding.vllm_vocabulary import vocabulary_of
from grammars.named import register_from

KEY = "reweigh"


def with_names(
    config: Mapping[str, Any] | None,
    places: Mapping[str, str],
    databases: Mapping[str, str],
    partial_rewards: Mapping[str, str],
) -> dict[str, Any]:
    """vLLM's `additional_config` with the names in it.

    places           of constraints, name -> module:object; databases: name -> file or URL
    partial_rewards  name -> module:object
    """
    named = {"places": dict(places), "databases": dict(databases), "partial_rewards": dict(partial_rewards)}
    return {**(config or {}), KEY: named}


def register_names(vllm_config: Any) -> None:
    """Register in the model runner's process what constraints the configuration names."""
    named = _named(vllm_config)
    # The model's own process must outlive whatever an operator's function does.
    register_from(named.get("places", {}), named.get("databases", {}), processes=1)


def register_partial_rewards(vllm_config: Any) -> None:
    """Register in the scheduler's process what rewards on partial text the configuration names."""
    if places := _named(vllm_config).get("partial_rewards"):
        register_partial(places, vocabulary_of(vllm_config).decode)


def _named(vllm_config: Any) -> Mapping[str, Any]:
    config = vllm_config.additional_config
    named: Mapping[str, Any] = config.get(KEY, {}) if isinstance(config, Mapping) else {}
    return named
