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


def adaptation(own: Mapping[str, Any], signals: Mapping[str, str]) -> Adapted | None:
    """What a request asks for; None where it asks for nothing. Raises ApiError (400) naming the field.

    Of signals only names are taken: a path would be read where the server runs.
    signals  those of the operator: name -> what `signal_named` makes it of
    """
    asked = {name: own[name] for name in SETTINGS if own.get(name) is not None}
    given = asked.get("adaptation")
    if isinstance(given, Mapping) and "signal" in given:
        signal, known = given["signal"], {**{name: name for name in SIGNALS}, **signals}
        if not isinstance(signal, str) or signal not in known:
            place = "reweigh.adaptation.signal"
            raise bad(f"{place} is {short(signal)}: one of {', '.join(sorted(known))} was wanted", place)
        asked["adaptation"] = {**given, "signal": known[signal]}
    try:
        return adaptation_of(asked, "reweigh.")
    except RequestError as error:
        named = re.match(r"reweigh\.[\w.\[\]]+", str(error))
        raise bad(str(error), named.group().rstrip(".") if named else "reweigh.adaptation") from None
