"""Programs as answers: what passes, what does not, and what a hostile one cannot do."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from decoding.rewarding import reward_of
from decoding.rewards.unit_tests import UnitTests
from decoding.sandbox import Sandbox
from grammars.errors import RequestError
from samplers.reward import Candidate


def outcome(program: str, **options: Any) -> str:
    return Sandbox(**{"timeout_s": 20.0, **options}).run(program).kind


def test_humaneval_solutions_pass_and_mutilated_ones_fail(data: Path):
    rows = [json.loads(line) for line in (data / "humaneval" / "problems.jsonl").read_text().splitlines()][:4]
    for row in rows:
        reward = UnitTests(row["test"], prefix=row["prompt"], entry_point=row["entry_point"], timeout_s=20)
        right, fenced = (
            row["canonical_solution"],
            f"Sure:\n```python\n{row['prompt']}{row['canonical_solution']}```\nDone.",
        )
        texts = [right, fenced, "    return None\n", "    return undefined\n", "nonsense("]
        assert reward.score([Candidate("q", text) for text in texts]).tolist() == [1, 1, 0, 0, 0], row["task_id"]


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("import json, re, collections, typing, hashlib, random, datetime", "passed"),
        ("print('x' * 10**7)", "passed"),
        ("assert 1 == 2", "failed"),
        ("raise SystemExit(0)", "failed"),
        ("import os; os._exit(0)", "failed"),
        ("def f(): f()\nf()", "failed"),
        ("import ctypes; ctypes.string_at(0)", "failed"),
        ("x = 'a' * 10**9", "memory"),
        ("x = 1 +", "failed"),
        ("'\ud800'", "failed"),
        ("import threading; t = threading.Thread(target=print); t.start(); t.join()", "passed"),
    ],
)
def test_how_programs_end(program: str, kind: str):
    assert outcome(program) == kind


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: pass",
        "import time; time.sleep(1e6)",
        "10 ** 10 ** 10",
        "try:\n    while True: pass\nfinally:\n    while True: pass",
    ],
)
def test_what_does_not_end_is_killed(program: str):
    assert outcome(program, timeout_s=0.5) == "timeout"


def test_what_a_program_has_started_ends_with_it():
    """Its children leave the session, and would outlive a kill of the process group; their namespace dies with the program."""
    mark = f"mark{os.getpid()}"
    program = (
        "import os, ctypes, time\n"
        f"if os.fork() == 0:\n    os.setsid()\n    ctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\n    time.sleep(600)\n"
        "time.sleep(0.2)\n"
    )
    assert outcome(program) == "passed"
    names = [path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm") if path.exists()]
    assert mark not in names


def test_a_fork_bomb_does_not_get_far():
    assert (
        outcome("import os\nfor _ in range(40):\n    if os.fork() == 0:\n        import time\n        time.sleep(600)")
        == "failed"
    )


def test_there_are_no_files_no_network_and_no_other_processes(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("s")
    os.chmod(tmp_path, 0o777)
    os.chmod(secret, 0o666)
    with socket.socket() as listening, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        datagrams.bind(("127.0.0.1", 0))
        forbidden = {
            f"open({str(secret)!r}).read()": PermissionError,
            f"open({str(secret)!r}, 'w')": PermissionError,
            f"open({str(tmp_path / 'new')!r}, 'w')": PermissionError,
            f"import os; os.unlink({str(secret)!r})": PermissionError,
            f"import os; os.listdir({str(tmp_path)!r})": PermissionError,
            "open('/etc/passwd').read()": PermissionError,
            "open('/proc/1/environ').read()": PermissionError,
            "import subprocess; subprocess.run(['/bin/true'])": PermissionError,
            f"import socket; socket.create_connection(('127.0.0.1', {listening.getsockname()[1]}), 1)": OSError,
            f"import os; os.kill({os.getpid()}, 9)": ProcessLookupError,
        }
        for program, error in forbidden.items():
            found = Sandbox(timeout_s=20).run(program)
            assert found.kind == "failed", (program, found)
            assert issubclass(__builtins__[found.detail.split(":")[0]], error), (program, found)  # type: ignore[index]
        # The same line without isolation: that the check above can fail.
        assert outcome(f"open({str(secret)!r}).read()", isolation="limits") == "passed"
    assert secret.read_text() == "s" and not (tmp_path / "new").exists()


def test_writing_what_looks_like_a_verdict_is_none():
    program = (
        "import os\nfor fd in range(64):\n"
        '    try: os.write(fd, b\'{"word": "", "outcome": "passed", "detail": ""}\')\n'
        "    except OSError: pass\nos._exit(0)"
    )
    assert outcome(program) == "failed"


def test_rewards_of_equal_programs_are_had_once_and_by_name():
    spec = {"unit_tests": {"tests": "assert f(2) == 4", "processes": 2, "timeout_s": 20}}
    reward = reward_of(spec)
    texts = ["def f(x): return x * x", "def f(x): return x", "```py\ndef f(x):\n    return x ** 2\n"]
    assert reward.score([Candidate("q", text) for text in texts]).tolist() == [1.0, 0.0, 1.0]
    assert len(reward.score([])) == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"tests": " "}, {"tests": "x ="}, {"tests": 1}, {"tests": "x", "entry_point": "a b"}, {"tests": "x", "processes": 0},
     {"tests": "x", "timeout_s": 0}, {"tests": "x", "isolation": "none"}, {"tests": "x", "memory_mib": -1}],
)  # fmt: skip
def test_tests_that_cannot_be_are_named(options: dict[str, Any]):
    with pytest.raises(RequestError, match=r"unit_tests|sandbox"):
        reward_of({"unit_tests": options})
