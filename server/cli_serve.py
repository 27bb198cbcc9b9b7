"""`reweigh serve`: vLLM's own OpenAI-compatible server with reweigh inside its engine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli_errors import OK, UsageError
from server.cli_inputs import look_in

if TYPE_CHECKING:
    from samplers.inference_scaling_profile import Profile
    from server.guard import Gate
    from server.judge_endpoint import Endpoint

ABOUT = """\
An OpenAI-compatible server: vLLM's own, with weighted, constrained generation inside its engine.
Point the openai client at http://HOST:PORT/v1; a page for people is at http://HOST:PORT/."""
MORE = """\
Every other option goes to vLLM's server as it is: --host, --port, --max-model-len, --max-num-seqs, --tensor-parallel-size,
--quantization, --enable-lora, --served-model-name, --reasoning-parser, ...; `reweigh serve --help=all` lists them.
Without --host it listens on 127.0.0.1, without --port on 8000; --shutdown-timeout is 30 s.

example:
  reweigh serve --model org/model --api-key $KEY --database shop=shop.sqlite --constraint lucky=rules:even"""

# What an operator gives names that requests may use: the option, what stands for one, and what it is.
_NAMED = {
    "constraint": ("MODULE:OBJECT", "a language, type or predicate that requests may name"),
    "database": ("FILE_OR_URL", "a database that requests may name to have queries of it written"),
    "reward": ("MODULE:OBJECT", "a reward that requests may name in best_of: fn(text) or fn(prompt, text)"),
    "partial-reward": (
        "MODULE:OBJECT",
        "a reward of prefixes that requests may name in partial_reward: fn(text, complete)",
    ),
    "signal": (
        "FILE.npz",
        "a classifier that requests may name in adaptation to be detoxified by; also transformers:MODEL#LABEL, or "
        "MODULE:OBJECT with log_odds(texts)",
    ),
    "judge": (
        "URL[,model=MODEL][,key_env=VARIABLE]",
        "another OpenAI-compatible server's model as a judge that requests may name in best_of, instead of the served one; "
        "key_env: where its API key stands",
    ),
    "profile": (
        "FILE",
        "a file of `reweigh calibrate --save` that requests may name in best_of for k and temperature",
    ),
}


@dataclass(frozen=True)
class Told:
    """What the operator has told the server, beside vLLM's own arguments.

    places           name -> module:object of a constraint; databases: name -> file or URL
    rewards          name -> module:object of a reward of finished texts; partial_rewards: of prefixes
    signals          name -> file, model or module:object of a signal that steers
    judges           name -> another server's model that answers judges
    profiles         name -> what `reweigh calibrate --save` wrote
    """

    gate: Gate
    places: dict[str, str] = field(default_factory=dict)
    databases: dict[str, str] = field(default_factory=dict)
    rewards: dict[str, str] = field(default_factory=dict)
    partial_rewards: dict[str, str] = field(default_factory=dict)
    signals: dict[str, str] = field(default_factory=dict)
    judges: dict[str, Endpoint] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", help="a hub name or a path; without it the embedded SmolLM2-135M-Instruct")
    command.add_argument(
        "--api-key", action="append", metavar="KEY", help="asked for everywhere but at /health; may be repeated"
    )
    for name, (form, what) in _NAMED.items():
        command.add_argument(f"--{name}", action="append", metavar=f"NAME={form}", help=f"{what}; may be repeated")
    command.add_argument(
        "--max-requests", type=int, default=256, metavar="N", help="under way at once; more get a 429 (default 256)"
    )
    command.add_argument(
        "--max-body", type=int, default=4 << 20, metavar="BYTES", help="longest body; longer get a 413 (default 4 MiB)"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; then what is under way is finished, up to --shutdown-timeout."""
    from server.guard import Gate, digests
    from server.serve import serve

    keys = options.api_key or [key for key in (os.environ.get("VLLM_API_KEY"),) if key]
    if any(not key.strip() for key in keys):
        raise UsageError("--api-key is empty")
    for name, least in (("max_requests", 1), ("max_body", 1024)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least {least} was wanted")
    gate = Gate(digests(keys), options.max_body, options.max_requests)
    places = _pairs(options.constraint, "--constraint", "name=module:object")
    databases = {
        name: url if "://" in url else str(Path(url).absolute())
        for name, url in _pairs(options.database, "--database", "name=file or URL").items()
    }
    if both := places.keys() & databases.keys():
        raise UsageError(f"{min(both)} is both a --constraint and a --database: give them different names")
    rewards = _pairs(options.reward, "--reward", "name=module:object")
    partial_rewards = _pairs(options.partial_reward, "--partial-reward", "name=module:object")
    judges = _pairs(options.judge, "--judge", "name=http://host/v1")
    if both := rewards.keys() & judges.keys():
        raise UsageError(f"{min(both)} is both a --reward and a --judge: give them different names")
    told = Told(
        gate,
        places=_places(places, "--constraint"),
        databases=databases,
        rewards=_places(rewards, "--reward"),
        partial_rewards=_places(partial_rewards, "--partial-reward"),
        signals=_signals(options.signal),
        judges={name: _judge(text) for name, text in judges.items()},
        profiles={
            name: _profile(name, file) for name, file in _pairs(options.profile, "--profile", "name=file").items()
        },
    )
    serve(options.model, options.vllm, told)
    return OK


def _pairs(given: Sequence[str] | None, option: str, form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise UsageError(f"{option} {text!r}: {form} was wanted")
        if name in pairs:
            raise UsageError(f"{option} {name} is given twice")
        pairs[name] = value
    return pairs


def _places(given: dict[str, str], option: str) -> dict[str, str]:
    return {name: _place(text, option) for name, text in given.items()}


def _signals(given: Sequence[str] | None) -> dict[str, str]:
    """Name -> what `signal_named` finds in every process."""
    from decoding.adaptation.signals import SIGNALS

    signals = _pairs(given, "--signal", "name=file.npz")
    for name, text in signals.items():
        if name in SIGNALS:
            raise UsageError(f"--signal {name}: there is a signal of that name already; choose another")
        if text.endswith(".npz"):
            signals[name] = str(Path(text).absolute())
        elif ":" not in text:
            raise UsageError(
                f"--signal {name}={text}: a .npz file, transformers:MODEL#LABEL or module:object was wanted"
            )
        elif not text.startswith("transformers:"):
            signals[name] = _place(text, "--signal")
    return signals


def _place(text: str, option: str) -> str:
    """`module:object` as every process can import it: a file's folder, and the current one, are looked in."""
    module, _, name = text.rpartition(":")
    folder = os.getcwd()
    if module.endswith(".py"):
        path = Path(module).absolute()
        if not path.is_file():
            raise UsageError(f"{option} {text}: there is no file {module}")
        folder, module = str(path.parent), path.stem
    look_in(folder)
    return f"{module}:{name}"


def _judge(text: str) -> Endpoint:
    """The model of another server: its URL, and model=, key_env= after commas."""
    from server.judge_endpoint import Endpoint, only_model

    url, *rest = text.split(",")
    told: dict[str, str] = {}
    for one in rest:
        name, _, value = one.partition("=")
        if name not in ("model", "key_env") or not value or name in told:
            raise UsageError(f"--judge {text}: after the URL model=NAME and key_env=VARIABLE were wanted, not {one!r}")
        told[name] = value
    variable = told.get("key_env")
    key = None if variable is None else os.environ.get(variable)
    if variable is not None and not key:
        raise UsageError(f"--judge {text}: the environment variable {variable} is not set, or empty")
    return Endpoint(url, told.get("model") or only_model(url, key), key)


def _profile(name: str, file: str) -> Profile:
    from decoding.rewarding import profile_of
    from grammars.errors import RequestError

    try:
        found = profile_of(file)
    except RequestError as error:
        raise UsageError(f"--profile {name}={file}: {error}") from error
    assert found is not None
    return found
