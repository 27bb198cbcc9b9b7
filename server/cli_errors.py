"""How a command ends: exit codes, and the errors that only a command line can make."""

from __future__ import annotations

OK = 0
FAILURE = 1
USAGE = 2
NOTHING = 3
INVALID = 4
FAILED_LINES = 5
DEADLINE = 124
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

ERRORS = "grammars.errors"

EXIT_CODES = """\
exit codes:
  0    ok
  1    failure: the model does not load, the engine ended, a predicate raised
  2    usage: an option, a file or the prompt is missing or wrong
  3    nothing satisfied the constraint (check --text: the text does not)
  4    the constraint is invalid or not supported
  5    a batch with failed lines
  124  deadline (--timeout)
  130  interrupted (Ctrl-C); 143 terminated; 141 the reader of stdout went away"""


class UsageError(Exception):
    """A command line that asks for what cannot be, or names something that is not there."""


class Terminated(KeyboardInterrupt):
    """SIGTERM. Like Ctrl-C it unwinds the stack, event loops included, so that what is open is closed."""


def name_of(error: BaseException) -> str:
    """An error's type as users know it: a language's own kinds of GrammarError go by that name."""
    known = (
        kind for kind in type(error).__mro__ if not kind.__module__.startswith("grammars.") or kind.__module__ == ERRORS
    )
    return next(known).__name__
