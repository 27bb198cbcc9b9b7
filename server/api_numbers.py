"""Numbers of a body: within their range, or a 400 that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from server.api_errors import bad


def count(values: Mapping[str, Any], name: str, least: int, most: int, param: str) -> int:
    """A whole number; 1 where there is none."""
    value = values.get(name)
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise bad(f"{param} is {short(value)}: a whole number from {least} to {most} was wanted", param)
    return value


def number(
    values: Mapping[str, Any], name: str, default: float, least: float, most: float, param: str | None = None
) -> float:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise bad(f"{param or name} is {short(value)}: a number from {least:g} to {most:g} was wanted", param or name)
    return float(value)


def short(value: Any) -> str:
    """A value as an error message shows it, cut short."""
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
