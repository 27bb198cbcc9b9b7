"""vLLM's processes end with the one that started them, also where it was killed and could not say goodbye."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

# Between asking a process to end and ending it.
END_S = 5.0
# As vLLM names the processes that it starts; any other that an engine may live in is its user's affair.
NAMES = ("EngineCore", "VllmWorker")


def end_with_parent() -> None:
    """Where this is a process of vLLM's, end it once its parent is gone: it would run on for nobody, with all its memory.

    vLLM's engine does not look; its workers look at a pipe, which a killed engine's other children may hold open.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not multiprocessing.current_process().name.startswith(NAMES):
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="reweigh-parent-watch", daemon=True).start()
