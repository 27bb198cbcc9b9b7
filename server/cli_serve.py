"""`reweigh serve`: there is no server yet."""

from __future__ import annotations

import argparse

from grammars.errors import ReweighError


def run(options: argparse.Namespace) -> int:
    raise ReweighError("there is no server yet: use decoding.Engine in Python, or the other commands")
