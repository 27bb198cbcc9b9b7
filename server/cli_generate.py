"""One prompt, one result: the generating commands."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from grammars.errors import GrammarError
from server.cli_constraints import language_of
from server.cli_errors import OK, UsageError
from server.cli_inputs import json_of, look_in, read_prompt
from server.cli_output import note, show

if TYPE_CHECKING:
    from decoding.engine import Engine
    from decoding.request import Result
    from grammars.constraint import Language
    from server.cli_url import Told

SETTINGS = (
    "particles", "sampler", "ess_threshold", "resampling", "temperature", "top_p", "max_tokens", "detox", "debias", "adaptation",
)  # fmt: skip
"""How to sample, besides the seed: what a line of a batch may set for itself."""

Asked = dict[str, Any]
"""`prompts` or `messages` of `Engine.generate`."""

# What the engine's batch holds unless it is told otherwise.
DEFAULT_ROWS = 64


def run(options: argparse.Namespace) -> int:
    """Draw for one prompt and print the result; with --input for every line of a file."""
    if options.input is not None or options.output is not None:
        from server.cli_batch import run_batch

        return run_batch(options, constraint_of(options), settings_of(options))
    drawn = draw(options)
    show(drawn.result, options, model=drawn.model, load_s=drawn.load_s)
    return OK


@dataclass(frozen=True)
class Drawn:
    """A result, the model it is from, and the seconds that took to start (None: it ran already)."""

    result: Result
    model: str
    load_s: float | None


def draw(options: argparse.Namespace) -> Drawn:
    """Draw for the command's prompt; with --explain say on stderr how. Everything is checked before a model is loaded."""
    language = constraint_of(options)
    settings = settings_of(options)
    prompt = read_prompt(options)
    with started(options) as model:
        # A list of one: its result comes back even where every particle died, and can be explained.
        (result,) = model.engine.generate(
            **{name: [given] for name, given in asked(model.engine, prompt, options.system, options).items()},
            constraint=language,
            seed=options.seed,
            timeout_s=options.timeout,
            trace=options.explain,
            **settings,
        )
        if options.explain:
            from server.cli_explain import explain

            explain(result, model.engine.vocabulary)
        result.raise_for_error()
        return Drawn(result, model.name, model.load_s)


def constraint_of(options: argparse.Namespace) -> Language | Told | None:
    """The constraint; with --url as the server is told of it."""
    from server import cli_url

    cli_url.check_options(options)
    language = language_of(options)
    if options.named is not None:
        return cli_url.named(options.named, language)
    return language if options.url is None or language is None else cli_url.told_of(language)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """How to sample, as `Engine.generate` takes it, checked before a model is loaded."""
    if options.n < 1:
        raise UsageError(f"--n {options.n}: at least 1 was wanted")
    if options.timeout is not None and not options.timeout > 0:
        raise UsageError(f"--timeout {options.timeout:g}: seconds above 0 were wanted")
    sampler = options.sampler
    if sampler.startswith("{"):
        sampler = json_of(sampler, "--sampler")
    settings = {
        "particles": options.particles,
        "sampler": sampler,
        "ess_threshold": options.ess_threshold,
        "resampling": options.resampling,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_tokens": options.max_tokens,
        **_steering_of(options),
    }
    check_settings({**settings, "seed": 0 if options.seed is None else options.seed}, options.url is None)
    return settings


def _steering_of(options: argparse.Namespace) -> dict[str, Any]:
    """What steers the model, where anything does."""
    made: dict[str, Any] = {}
    strength = options.detox_strength
    if options.detox or strength is not None:
        made["detox"] = 1.0 if strength is None else strength
    if options.debias:
        made["debias"] = [
            _option_json(one, "--debias") if one.lstrip().startswith("{") else one for one in options.debias
        ]
    if options.adaptation is not None:
        made["adaptation"] = _option_json(options.adaptation, "--adaptation")
    return made


def _option_json(text: str, name: str) -> Any:
    """JSON of an option that is no constraint: a mistake in it is one of usage."""
    try:
        return json_of(text, name)
    except GrammarError as error:
        raise UsageError(str(error)) from error


def check_settings(settings: Mapping[str, Any], here: bool = True) -> None:
    """Raise RequestError naming the setting that is out of range. here: false where a server generates, which has its signals"""
    from decoding.adaptation.settings import SETTINGS as STEERING
    from decoding.adaptation.settings import adaptation_of
    from decoding.order import Order
    from grammars.errors import RequestError
    from samplers.randomness import MAX_SEED

    for name, least in (("particles", 1), ("max_tokens", 1), ("seed", 0)):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise RequestError(f"{name}={value!r}: a whole number of at least {least} was wanted")
    if settings["seed"] > MAX_SEED:
        raise RequestError(f"seed={settings['seed']}: a whole number up to 2**64 - 1 was wanted")
    if here:
        look_in(os.getcwd())  # for a signal that is named module:object
    adaptation_of({name: settings[name] for name in STEERING if name in settings}, signal_here=here)
    order = {name: value for name, value in settings.items() if name not in ("particles", *STEERING)}
    Order(group="", num_particles=settings["particles"], constraint=None, **order).check()


def asked(engine: Engine, prompt: str, system: str | None, options: argparse.Namespace) -> Asked:
    """The prompt as `Engine.generate` takes it: a chat where the model has a template for one, unless --raw.

    For a database it is a question, and the tables come with it.
    """
    chat = not options.raw and bool(getattr(engine.tokenizer, "chat_template", None))
    if system is not None and not chat:
        why = "--raw gives the prompt alone" if options.raw else f"model {engine.model!r} has no chat template"
        raise UsageError(f"--system: {why}; put the text into the prompt")
    text, turns = prompt, [{"role": "user", "content": prompt}]
    if options.kind == "sql" and options.db is not None:
        from grammars.sql import Sql

        tables = Sql(options.db)
        text, turns = tables.prompt(prompt, options.sample_values), tables.messages(prompt, options.sample_values)
        if options.show_prompt:
            note("\n".join(f"{turn['role']}: {turn['content']}" for turn in turns) if chat else text)
    if not chat:
        return {"prompts": text}
    if system is not None:
        if turns[0]["role"] == "system":  # many templates take one
            system, turns = f"{system}\n\n{turns[0]['content']}", turns[1:]
        turns = [{"role": "system", "content": system}, *turns]
    return {"messages": turns}


@dataclass(frozen=True)
class Model:
    """An engine that is running. load_s: seconds it took to start; None for one that ran already."""

    engine: Engine
    load_s: float | None

    @property
    def name(self) -> str:
        return self.engine.model


@contextmanager
def started(options: argparse.Namespace, rows: int | None = None) -> Iterator[Model]:
    """The engine for a command: the one that `main` was given, or one for the length of the block.

    rows  particles that run side by side at most; by default those of one prompt
    """
    if options.engine is not None:
        yield Model(options.engine, None)
        return
    if options.url is not None:
        from server.cli_url import RemoteEngine

        # It answers what the commands ask of an engine.
        yield Model(cast("Engine", RemoteEngine(options.url, options.model)), None)
        return
    arguments = engine_arguments(options, rows or options.particles)
    if sys.stderr.isatty() and not options.quiet:
        note(f"reweigh: starting {options.model or 'the embedded model'}")
    from decoding.engine import Engine

    begun = time.perf_counter()
    with Engine(options.model, **arguments) as engine:
        yield Model(engine, time.perf_counter() - begun)


def engine_arguments(options: argparse.Namespace, rows: int) -> dict[str, Any]:
    """vLLM's engine arguments: those of --engine-arg, and room for more particles than its batch holds by default."""
    arguments: dict[str, Any] = {"max_num_seqs": rows} if rows > DEFAULT_ROWS else {}
    given: dict[str, Any] = {}
    for text in options.engine_args or ():
        key, equals, value = text.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not equals or not name:
            raise UsageError(f"--engine-arg {text!r}: key=value was wanted, such as max_model_len=4096")
        if name in given:
            raise UsageError(f"--engine-arg {name} was given twice")
        if name == "model":
            raise UsageError("--engine-arg model: name the model with --model")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return arguments | given
