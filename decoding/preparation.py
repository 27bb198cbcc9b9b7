"""Constraints compiled in the model runner's process beside its steps, so that a slow one holds up nobody else."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from grammars.errors import ReweighError, kind_of
from grammars.registry import compile_spec
from grammars.vocabulary import Vocabulary

# One at a time: a second thread would take as much from the steps as the first again.
THREADS = 1


class Preparation:
    """Compiles specs in the background; what it has compiled is in the registry's cache, where rows find it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="reweigh-compile")
        self._pending: dict[str, Future[tuple[str, str] | None]] = {}

    def start(self, specs: Iterable[str]) -> None:
        """Begin with some specs, as JSON text; one that is under way is not begun again."""
        for spec in specs:
            if spec not in self._pending:
                self._pending[spec] = self._pool.submit(self._compile, spec)

    def wait(self, timeout_s: float) -> None:
        """Wait until one that is under way has ended, where there is one."""
        if self._pending:
            wait(self._pending.values(), timeout_s, FIRST_COMPLETED)

    def take(self) -> dict[str, tuple[str, str] | None]:
        """What has ended since the last call: spec -> None, or the error's type and text."""
        ended = {spec: future for spec, future in self._pending.items() if future.done()}
        for spec in ended:
            del self._pending[spec]
        return {spec: future.result() for spec, future in ended.items()}

    def _compile(self, spec: str) -> tuple[str, str] | None:
        try:
            compile_spec(spec, self._vocabulary).start()
        except ReweighError as error:
            return kind_of(error), str(error)
        except Exception as error:  # a defect in a compiler: this request's error, told to it by name
            return "EngineError", f"internal error while the constraint was compiled: {type(error).__name__}: {error}"
        return None
