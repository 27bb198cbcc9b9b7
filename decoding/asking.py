"""From the arguments of `generate` to a checked `Request`, on to the order that travels, and from its summary to a `Result`.

Shared by the engine in this process and by the service over vLLM's server: what is asked is checked once, in one place.
"""

from __future__ import annotations

import codecs
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from decoding.adaptation.naming import named_first
from decoding.adaptation.population import Named, balanced, group_shares
from decoding.adaptation.settings import SETTINGS as ADAPTATION
from decoding.order import Order
from decoding.request import Request, Result, Stats, Steered, Usage, finished_text, num_tokens, texts_of, trace_of
from grammars.errors import DeadEnd, ReweighError, error_named
from grammars.errors import RequestError as BadRequest
from grammars.vocabulary import Vocabulary
from samplers.randomness import MAX_SEED

CONSTRAINTS = ("regex", "json_schema", "lark", "choice", "predicate", "constraint")
SETTINGS: dict[str, Any] = {
    "particles": 8,
    "sampler": "auto",
    "ess_threshold": 0.5,
    "resampling": "systematic",
    "resample_every": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_tokens": 64,
    "truncate": False,
    "trace": False,
    "stop": (),
}
# Taken out of the options before the settings are looked at: what every draw may be asked for, and what `generate` alone.
OF_ALL = ("seed", "partial_reward", *ADAPTATION)
SELECTION = ("reward", "select_temperature", "select", "unjudged", "rule")
WAVES = ("until", "wave", "token_budget", "judge_budget")
OF_GENERATE = ("k", "profile", *SELECTION, *WAVES, "timeout_s", "progress")
MOST_STOPS = 16
# Of temperatures, beside detox and debias.
LEAST_STEERED = 0.01
# What other interfaces offer: asked for here, it deserves the reason.
_CHANGES_P = frozenset({
    "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "bad_words",
    "min_tokens",
})  # fmt: skip


def constraint_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments that name a constraint out of the options."""
    return {name: options.pop(name) for name in CONSTRAINTS if name in options}


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request with their defaults, of the right types; raises RequestError naming the one that is not."""
    for name in options:
        if name not in SETTINGS:
            if name in _CHANGES_P:
                raise BadRequest(f"option {name!r} would change p behind the weights' back: leave it out")
            if name in OF_GENERATE:
                raise BadRequest(f"option {name!r} is for generate and agenerate")
            raise BadRequest(
                f"unknown option {name!r}; there are {', '.join([*CONSTRAINTS, *SETTINGS, *OF_ALL])}, "
                f"and for generate and agenerate {', '.join(OF_GENERATE)}"
            )
    settings = {**SETTINGS, **options}
    particles, max_tokens = settings["particles"], settings["max_tokens"]
    for name, value in (("particles", particles), ("max_tokens", max_tokens)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise BadRequest(f"{name}={value!r}: a whole number of at least 1 was wanted")
    if not isinstance(settings["sampler"], str | Mapping):
        raise BadRequest(f'sampler={settings["sampler"]!r}: a name was wanted, or a dict with "name" and options')
    for name in ("temperature", "ess_threshold", "top_p"):
        if isinstance(settings[name], np.floating | np.integer):
            settings[name] = float(settings[name])
    settings["particles"], settings["max_tokens"] = int(particles), int(max_tokens)
    for name in ("truncate", "trace"):
        if not isinstance(settings[name], bool):
            raise BadRequest(f"{name}={settings[name]!r}: True or False was wanted")
    settings["stop"] = _stops(settings["stop"])
    return settings


def _stops(given: Any) -> tuple[str, ...]:
    stops = () if given is None else (given,) if isinstance(given, str) else given
    if not isinstance(stops, tuple | list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadRequest(f"stop={given!r:.80}: a text that is not empty was wanted, or a list of such")
    if len(stops) > MOST_STOPS:
        raise BadRequest(f"stop has {len(stops)} texts: at most {MOST_STOPS} are looked for")
    return tuple(stops)


def seed_of(given: Any) -> int:
    """The seed of a request: the one given, or a drawn one for None."""
    if given is None:
        return secrets.randbits(63)
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 0 <= given <= MAX_SEED:
        raise BadRequest(f"seed={given!r} must be a whole number from 0 to 2**64 - 1, or None")
    return int(given)


def check_request(request: Request, place: str, max_model_len: int, max_particles: int) -> None:
    """Raise RequestError for a request that the engine has no room for or that has a setting out of range."""
    room = max_model_len - len(request.prompt)
    if request.max_tokens > room:
        lower = f", lower max_tokens to {room}" if room > 0 else ""
        raise BadRequest(
            f"{place} has {len(request.prompt)} tokens, and max_tokens={request.max_tokens} more are above the model's "
            f"{max_model_len}: shorten it{lower}, or raise the engine's max_model_len"
        )
    if request.particles > max_particles:
        raise BadRequest(
            f"particles={request.particles} is above the engine's max_num_seqs={max_particles}: "
            "they run side by side; start the engine or the server with a larger one"
        )
    if request.adapt is not None and request.adapt["balance"] == "population" and request.particles < 2:
        raise BadRequest(
            "adaptation.balance='population' balances texts by their weights: ask for several particles, "
            "or let balance be 'token'"
        )
    if request.adapt is not None and request.temperature < LEAST_STEERED:
        raise BadRequest(
            f"temperature below {LEAST_STEERED:g} leaves one token at every step, which detox and debias cannot steer: "
            "raise it, or leave them out"
        )
    order_of(request, "").check()


def order_of(request: Request, group: str, stream: bool = False, prepare: bool = False) -> Order:
    """What travels to the engine for a request. group: a name of its own; stream, prepare: see `Order`."""
    return Order(
        group=group,
        num_particles=request.particles,
        constraint=request.spec,
        sampler=request.sampler,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        max_tokens=request.max_tokens,
        truncate=request.truncate,
        ess_threshold=request.ess_threshold,
        resampling=request.resampling,
        resample_every=request.resample_every,
        trace=request.trace,
        stop=list(request.stop),
        certainty=request.certainty,
        potential=None if request.potential is None else request.potential.handle,
        # Lexicons are for finished texts: they need not travel with every fork.
        adapt=None if request.adapt is None else {**request.adapt, "lexicons": {}},
        stream=stream,
        prepare=prepare,
    )


def result_of(request: Request, summary: dict[str, Any], vocabulary: Vocabulary) -> Result:
    """The result that a group's summary (with "wall_s" and "queued_s", seconds) tells of."""
    tokens = summary["tokens"]
    finish_reasons = summary["status"]
    log_weights = np.array(summary["log_weights"], dtype=np.float64)
    texts = texts_of(tokens, vocabulary.decode)
    if request.stop:
        texts = [
            finished_text(text, request.stop) if reason == "stop_string" else text
            for text, reason in zip(texts, finish_reasons, strict=True)
        ]
    named = _named(request.adapt, texts)
    if request.adapt is not None and request.adapt["balance"] == "population" and np.any(log_weights > -math.inf):
        log_weights = balanced(named, log_weights)
    traces = summary["traces"]
    completion = sum(map(num_tokens, tokens, finish_reasons))
    return Result(
        texts=texts,
        tokens=tokens,
        log_weights=log_weights,
        log_probs=np.array(summary["log_probs"], dtype=np.float64),
        finish_reasons=finish_reasons,
        usage=Usage(len(request.prompt), completion, summary["sampled_tokens"]),
        stats=Stats(
            steps=summary["steps"],
            checks=summary["checks"],
            masks=summary["masks"],
            resamplings=len(summary["ancestry"]),
            wall_s=summary["wall_s"],
            queued_s=summary["queued_s"],
            ess_history=tuple(summary["ess_history"]),
            sampled_tokens=summary["sampled_tokens"],
            computed_rows=summary["computed_rows"],
        ),
        seed=request.seed,
        ancestry=[(step, list(parents)) for step, parents in summary["ancestry"]],
        constraint=request.constraint,
        certainties=None if summary["certainties"] is None else np.array(summary["certainties"], dtype=np.float64),
        adaptation=None if request.adapt is None else _steered(request.adapt, summary, named, log_weights),
        trace=None if traces is None else [trace_of(steps, vocabulary.decode) for steps in traces],
        error=_error(request, summary, log_weights, [vocabulary.decode(ids) for ids in tokens]),
    )


def _named(adapt: Mapping[str, Any] | None, texts: Sequence[str]) -> Named:
    """Whom the texts name first, of the axes that the prompt leaves open."""
    if adapt is None:
        return {}
    left = {name: groups for name, groups in adapt["lexicons"].items() if name not in adapt["named"]}
    return named_first(texts, left, adapt["tail"])


def _steered(adapt: Mapping[str, Any], summary: dict[str, Any], named: Named, log_weights: np.ndarray) -> Steered:
    kl, ratios = ([tuple(pair[k] for pair in one) for one in summary["steered"]] for k in (0, 1))
    shares = group_shares(named, log_weights, {axis: list(groups) for axis, groups in adapt["debias"]})
    return Steered(tuple(kl), tuple(ratios), not summary["ancestry"], named, shares, tuple(adapt["named"]))


_HALF = (
    "some ended inside a character, which a predicate cannot judge before it is whole: mask what may not come, "
    'for instance with Regex("[ -~]*") & ...'
)


def _is_cut(text: bytes) -> bool:
    """Whether a text ends inside a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(text) != text.decode(errors="replace")


def _way_out(request: Request, texts: list[bytes]) -> str:
    """What may help where every particle ran into a dead end."""
    if any(map(_is_cut, texts)):
        return _HALF
    if request.top_p < 1.0:
        return f"top_p={request.top_p:g} cuts such tokens off: raise it"
    return "try more particles or a prompt nearer to the constraint"


def _error(
    request: Request, summary: dict[str, Any], log_weights: np.ndarray, texts: list[bytes]
) -> ReweighError | None:
    if summary["error"] is not None:
        return error_named(*summary["error"])
    if np.all(log_weights == -math.inf):
        longest = max(len(tokens) for tokens in summary["tokens"])
        if longest + 1 >= request.max_tokens and not request.truncate:
            return DeadEnd(
                f"no particle of {request.particles} ended within max_tokens={request.max_tokens}: "
                "raise max_tokens, or give the constraint an end within reach"
            )
        return DeadEnd(
            f"every one of {request.particles} particles ran into a dead end by token {longest}: no token the constraint "
            "accepts had any probability left, or the check budget ended; " + _way_out(request, texts)
        )
    return None
