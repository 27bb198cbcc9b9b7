"""One particle's text as it streams: whole characters, and nothing that may still turn out to be a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class StreamedText:
    """Bytes in, text out; what went out is never taken back.

    stops   texts that end it: from the first occurrence on nothing goes out
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._held = ""
        self.fed = 0

    def feed(self, piece: bytes) -> str:
        """The text that can go out after some more bytes."""
        self.fed += 1
        self._held += self._decoder.decode(piece)
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        keep = len(self._held) - min(found) if found else self._beginning_of_a_stop()
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def end(self, stopped: bool) -> str:
        """What was held back and belongs to the text after all. stopped: a stop string has ended it."""
        rest = "" if stopped else self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return rest

    def _beginning_of_a_stop(self) -> int:
        """Characters at the end that a stop string may begin with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
