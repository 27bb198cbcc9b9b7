"""Errors of the whole project that a user can meet. Each says what came, what was wanted, where, and what to do next."""


class ReweighError(Exception):
    """Base of every error raised on purpose.

    result   what had been drawn, where it is known: it is paid for
    """

    result: object = None


class GrammarError(ReweighError, ValueError):
    """A constraint that is malformed, unsupported, or over its compile budget."""


class OverBudget(GrammarError):
    """A constraint whose compilation takes longer than it may, or more memory than there is for it."""


class Unsatisfiable(GrammarError):
    """A constraint that no text satisfies."""


class PredicateError(ReweighError):
    """A predicate raised, hung, returned something that is not a bool, or contradicted itself."""


class RequestError(ReweighError, ValueError):
    """A request that is malformed or asks for a mixture that would change the target."""


class ParseError(ReweighError, ValueError):
    """A text that stands for no value: it was cut at max_tokens, or a model's own validator refuses it."""


class DeadEnd(ReweighError):
    """Every particle died: none of them could be continued or completed under the constraint."""


class RewardError(ReweighError):
    """A reward could not be had: its function raised, or answered what is no reward.

    judge_tokens   what a model that judged has cost all the same, where it is known
    """

    judge_tokens: int = 0


class EngineError(ReweighError, RuntimeError):
    """The engine could not be started, or ended while requests were under way."""


def kind_of(error: ReweighError) -> str:
    """The name of an error's type as it travels between processes: a language's own kinds go by that of their base here."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__)


def error_named(kind: str, message: str) -> ReweighError:
    """The error that `kind_of` has named; an EngineError for a name that is none."""
    made = globals().get(kind)
    if isinstance(made, type) and issubclass(made, ReweighError):
        return made(message)
    return EngineError(f"{kind}: {message}")
