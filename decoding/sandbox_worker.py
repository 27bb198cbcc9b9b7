"""The process in which a program of a stranger runs: `python -I -S sandbox_worker.py`, and nothing of this project is imported.

stdin: one JSON object with program, timeout_s, memory_mib, isolation. stdout: one JSON object with outcome and detail.
This process takes its privileges away and forks. The child runs the program; this one waits for its word, kills it at its time
limit, and with it, since it is the first process of its own process namespace, whatever it has started.
    namespaces  network (none in it), processes, IPC; as root the child also becomes a user of its own
    Landlock    no file may be written, and none read but the standard library and the system's shared libraries
    limits      CPU time, address space, file sizes (0), open files, processes; no core dumps
"""

import ctypes
import json
import os
import resource
import secrets
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

INTERPRETER_MIB = 64
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/dev/null")
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 1, 8, 38
CAP_DAC_READ_SEARCH = 2
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
LANDLOCK_RULE_PATH = 1
# All rights over files that an ABI of Landlock knows; execute, read file and read directory are what is given back.
LANDLOCK_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
LANDLOCK_READ, LANDLOCK_READ_FILE = 1 << 0 | 1 << 2 | 1 << 3, 1 << 0 | 1 << 2
# A user that nobody is, so that the limit on processes counts this program's alone.
FIRST_UID = 1_000_000_000

libc = ctypes.CDLL(None, use_errno=True)


class NoSandbox(Exception):
    """The kernel does not give what is needed."""


def call(what: str, function: Callable[..., int], *arguments: Any) -> int:
    result = function(*arguments)
    if result < 0:
        raise NoSandbox(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def unshare() -> None:
    kinds = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
    call("namespaces", libc.unshare, kinds if os.geteuid() == 0 else kinds | CLONE_NEWUSER)


def become_nobody() -> None:
    """As root: a user that owns nothing, who may read what Landlock leaves (the interpreter may lie in root's home)."""
    uid = FIRST_UID + os.getppid() + int.from_bytes(os.urandom(3))
    call("capabilities", libc.prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    number = SYS_CAPSET.get(os.uname().machine)
    if number is None:
        raise NoSandbox(f"capabilities: unknown on {os.uname().machine}")
    kept = 1 << CAP_DAC_READ_SEARCH
    header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", kept, kept, 0, 0, 0, 0)
    call("capabilities", libc.syscall, number, header, data)


def forbid_files() -> None:
    abi = libc.syscall(SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        raise NoSandbox("Landlock: not in this kernel")
    rights = LANDLOCK_RIGHTS[min(abi, max(LANDLOCK_RIGHTS))]
    attributes = struct.pack("Q", rights)
    rules = call("Landlock", libc.syscall, SYS_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    library = os.path.dirname(os.__file__)
    for path in (library, *LIBRARIES):
        try:
            there = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        allowed = LANDLOCK_READ if os.path.isdir(path) else LANDLOCK_READ_FILE
        rule = struct.pack("=Qi", allowed, there)
        call(f"Landlock: {path}", libc.syscall, SYS_LANDLOCK_ADD, rules, LANDLOCK_RULE_PATH, rule, 0)
        os.close(there)
    call("Landlock", libc.syscall, SYS_LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def limit(timeout_s: float, memory_mib: int) -> None:
    seconds = int(timeout_s) + 2
    space = (memory_mib + INTERPRETER_MIB) << 20
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 16),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def lock_up(request: dict[str, Any]) -> None:
    """Take away what the child must not have; to be called in the child."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.chdir("/")
    os.setsid()
    call("no new privileges", libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    isolated = request["isolation"] == "full"
    if isolated:
        if os.geteuid() == 0:
            become_nobody()
        forbid_files()
    limit(request["timeout_s"], request["memory_mib"])
    # A change of user resets it, so it comes last.
    call("death signal", libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def run(request: dict[str, Any], word: str, tell: int) -> NoReturn:
    """In the child: run the program and tell how it ended. word: what says that it came to its end."""

    def say(outcome: str, detail: str) -> None:
        os.write(tell, json.dumps({"word": word, "outcome": outcome, "detail": detail[:500]}).encode())

    leave = os._exit
    try:
        lock_up(request)
    except (NoSandbox, OSError, ValueError) as error:
        say("no sandbox", f"{error}")
        leave(0)
    try:
        exec(compile(request["program"], "<program>", "exec"), {"__name__": "__main__"})
        say("passed", "")
    except MemoryError:
        say("memory", f"more than {request['memory_mib']} MiB")
    except BaseException as error:
        say("failed", f"{type(error).__name__}: {error}")
    leave(0)


def watch(request: dict[str, Any], word: str, child: int, told: int) -> dict[str, str]:
    """In the parent: the child's word within its time, or why there is none."""
    deadline = time.monotonic() + request["timeout_s"]
    heard = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([told], [], [], left)[0]:
            piece = os.read(told, 4096)
            heard += piece
            if not piece or len(heard) > 4096:
                break
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return {"outcome": "timeout", "detail": f"not done within {request['timeout_s']:g} s"}
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    try:
        said = json.loads(heard)
        if said["word"] == word:
            return {"outcome": said["outcome"], "detail": said["detail"]}
    except (ValueError, TypeError, KeyError):
        pass
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return {"outcome": "timeout", "detail": f"more than {request['timeout_s']:g} s of CPU time"}
    return {"outcome": "failed", "detail": f"the process ended before the program did (status {status})"}


def main() -> None:
    request = json.load(sys.stdin)
    word = secrets.token_hex(16)
    told, tell = os.pipe()
    try:
        if request["isolation"] == "full":
            unshare()
    except NoSandbox as error:
        print(json.dumps({"outcome": "no sandbox", "detail": str(error)}))
        return
    child = os.fork()
    if child == 0:
        os.close(told)
        run(request, word, tell)
    os.close(tell)
    print(json.dumps(watch(request, word, child, told)))


if __name__ == "__main__":
    main()
