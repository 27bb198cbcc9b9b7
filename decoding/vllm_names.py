"""Constraints that go by name, in every process of a vLLM engine: they ride in its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grammars.named import register_from

KEY = "reweigh"


def with_names(
    config: Mapping[str, Any] | None, places: Mapping[str, str], databases: Mapping[str, str]
) -> dict[str, Any]:
    """vLLM's `additional_config` with the names in it. places: name -> module:object; databases: name -> file or URL."""
    return {**(config or {}), KEY: {"places": dict(places), "databases": dict(databases)}}


def register_names(vllm_config: Any) -> None:
    """Register in this process what the configuration names."""
    config = vllm_config.additional_config
    named = config.get(KEY, {}) if isinstance(config, Mapping) else {}
    # The model's own process must outlive whatever an operator's function does.
    register_from(named.get("places", {}), named.get("databases", {}), processes=1)
