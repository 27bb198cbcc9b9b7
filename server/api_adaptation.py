"""`reweigh.detox`, `reweigh.debias` and `reweigh.adaptation` of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from decoding.adaptation.lexicons import Axis
from decoding.adaptation.settings import SETTINGS, Adaptation, adaptation_of
from decoding.adaptation.signals import SIGNALS
from grammars.errors import RequestError
from server.api_errors import bad
from server.api_numbers import short

Adapted = tuple[Adaptation, tuple[Axis, ...]]


def adaptation(own: Mapping[str, Any]) -> Adapted | None:
    """What a request asks for; None where it asks for nothing. Raises ApiError (400) naming the field.

    Of signals only names are taken: a path would be read where the server runs.
    """
    given = own.get("adaptation")
    signal = given["signal"] if isinstance(given, Mapping) and "signal" in given else Adaptation.signal
    if not isinstance(signal, str) or signal not in SIGNALS:
        place = "reweigh.adaptation.signal"
        raise bad(f"{place} is {short(signal)}: one of {', '.join(sorted(SIGNALS))} was wanted", place)
    try:
        return adaptation_of({name: own[name] for name in SETTINGS if own.get(name) is not None}, "reweigh.")
    except RequestError as error:
        named = re.match(r"reweigh\.[\w.\[\]]+", str(error))
        raise bad(str(error), named.group().rstrip(".") if named else "reweigh.adaptation") from None
