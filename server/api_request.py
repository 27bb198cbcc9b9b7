"""What a request body asks of reweigh: read, checked, and named where it is wrong. A body that asks nothing is vLLM's alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from decoding.potentials import NamedPotential
from server.api_adaptation import Adapted, adaptation
from server.api_best_of import MOST_PARTICLES, BestOf, best_of, partial_reward
from server.api_constraints import Names, Spec, spec_of
from server.api_errors import bad
from server.api_numbers import count, number, short
from server.api_schemas import checked_schema, shown, strict_schema
from server.api_thinking import Thinking
from server.api_tools import Tools, tools_of

MOST_CHOICES = 64
LEAST_TEMPERATURE = 1e-4
MOST_LOGPROBS = 20
LONGEST_STOP = 1000

# Fields that look like a constraint and are none here: ignoring them would fail open.
_ELSEWHERE = {
    "guided_json": "response_format or structured_outputs.json",
    "guided_regex": "structured_outputs.regex",
    "guided_choice": "structured_outputs.choice",
    "guided_grammar": "structured_outputs.grammar",
    "guided_decoding_backend": "nothing: there is one backend",
    "guided_whitespace_pattern": 'reweigh: {"constraint": {"json_schema": ..., "whitespace": "flexible"}}',
    "grammar": "structured_outputs.grammar",
    "format": "response_format",
    "json_schema": "response_format",
    "schema": "response_format",
    "regex": "structured_outputs.regex",
    "ebnf": "structured_outputs.grammar",
    "choice": "structured_outputs.choice",
    "choices": "structured_outputs.choice",
    "constraint": 'reweigh: {"constraint": ...}',
    "particles": 'reweigh: {"particles": ...}',
    "detox": 'reweigh: {"detox": ...}',
    "debias": 'reweigh: {"debias": ...}',
    "extra_body": "its fields at the top level: the openai client puts them there itself",
    "functions": "tools",
    "function_call": "tool_choice",
    "best_of": 'reweigh: {"best_of": {"k": ..., "reward": ...}}',
    "text": "response_format",
    "nvext": "response_format, structured_outputs or reweigh",
}
# Neither vLLM's nor ours, and named as if it were to constrain or weigh: a slip of the pen must not fail open either.
_LIKE_OURS = re.compile(
    "weigh|guid|gramm|schema|regex|pattern|lark|bnf|json|sql|smiles|pddl|predicate|choice|constrain|struct|format|output_config|"
    "best_?of|particle|detox|debias|reward|sampler|resampl|judge|logits_?proc"
)
_NOT_OURS = {"reweigh", "response_format", "structured_outputs", "tool_choice"}
# Sampling parameters that change p, and their neutral values.
_CHANGES_P: dict[str, tuple[Any, ...]] = {
    "top_k": (0, -1, None),
    "min_p": (0, None),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "logit_bias": ({}, None),
    "bad_words": ([], None),
    "allowed_token_ids": (None,),
    "min_tokens": (0, None),
    "ignore_eos": (False, None),
    "watermarking": (False, None),
    "length_penalty": (1, None),
}
_NOT_WITH_WEIGHTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_beam_search": ((False, None), "draws are sampled here; leave it out"),
    "stop_token_ids": (([], None), "use stop"),
    "prompt_logprobs": ((None,), "ask for them in a request without a constraint"),
    "prompt_embeds": ((None,), "give the prompt as text or token ids"),
    "echo": ((False, None), "put the prompt before the text yourself"),
    "suffix": ((None, ""), "filling in is not supported"),
    "logprob_token_ids": ((None,), "use top_logprobs"),
    "repetition_detection": ((None,), "leave it out"),
    "include_stop_str_in_output": ((False, None), "the text ends before the stop string"),
    "thinking_token_budget": ((None,), "use reweigh.thinking"),
    "modalities": ((None, ["text"]), "answers are texts"),
    "audio": ((None,), "answers are texts"),
    "prediction": ((None,), "leave it out"),
    "vllm_xargs": ((None, {}), "leave it out"),
    "kv_transfer_params": ((None,), "leave it out"),
    "ec_transfer_params": ((None,), "leave it out"),
    "return_token_ids": ((None, False), "leave it out"),
    "return_tokens_as_token_ids": ((None, False), "leave it out"),
    "return_prompt_text": ((None, False), "leave it out"),
    "include_reasoning": ((None, True), "what the model thought is in the message"),
    "skip_special_tokens": ((None, True), "special tokens write no text here"),
    "stream_interval": ((None, 1), "tokens stream as they are made"),
}
_OWN = {
    "constraint", "particles", "ess_threshold", "resampling", "resample_every", "sampler", "seed", "select",
    "return_particles", "show_schema", "thinking", "best_of", "partial_reward", "detox", "debias",
    "adaptation",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request for weighted draws.

    spec             the constraint as data, None for none
    constraint_param the field it came from
    instruction      what tells the model what is wanted of it; None where nothing is shown
    n                choices, each drawn from a group of particles of its own
    select           "sample": a particle in proportion to its weight; "best": the likeliest text
    settings         what `decoding.asking.settings_of` takes; max_tokens is the caller's to add
    logprobs         None, or how many alternatives to tell of for each token
    thinking         the marks of what the model thinks before it answers, after which the constraint begins; None where it does
                     not think; "auto": the operator's reasoning parser has to say
    best_of          the reward that selects, if one does; in waves, particles are those of one wave
    potential        the operator's reward on partial text, if one is a factor of the target
    adapted          how the law of every token is to be steered, if it is
    """

    spec: Spec | None
    constraint_param: str | None
    instruction: str | None
    tools: Tools | None
    n: int
    select: str
    seed: int | None
    settings: Mapping[str, Any]
    max_tokens: int | None
    stream: bool
    include_usage: bool
    logprobs: int | None
    return_particles: bool
    thinking: Thinking | str | None
    best_of: BestOf | None = None
    potential: NamedPotential | None = None
    adapted: Adapted | None = None

    @property
    def as_made(self) -> bool:
        """Whether the text can stream while it is made: the only particle's can, which is none of several waves."""
        waves = None if self.best_of is None else self.best_of.waves
        return self.settings["particles"] == 1 and waves is None and self.tools is None

    @property
    def thoughts(self) -> Thinking | None:
        """The marks of the thought before the answer, if there is one."""
        assert not isinstance(self.thinking, str), "the reasoning parser has been asked"
        return self.thinking

    def with_thinking(self, parsers: Thinking | None) -> Asked:
        """The request once the operator's reasoning parser has been asked: the constraint begins after the thought."""
        thinking = parsers if isinstance(self.thinking, str) else self.thinking
        spec = self.spec
        if thinking is not None and spec is not None:
            spec = {"then": {"marker": thinking.end, "constraint": spec}}
        return replace(self, thinking=thinking, spec=spec)


def refuse_unknown(body: Mapping[str, Any]) -> None:
    """Raise a 400 for a field that looks like a constraint and would not be applied, in any request.

    `extra_body` may repeat what stands at the top level, as clients write it that are not openai's: nothing is lost then.
    """
    extra = body.get("extra_body")
    repeated = isinstance(extra, Mapping) and all(name in body and body[name] == extra[name] for name in extra)
    for name in _ELSEWHERE.keys() & body.keys():
        if body[name] is not None and not (name == "extra_body" and repeated):
            if name == "best_of" and body[name] == 1:
                continue
            raise bad(f"{name} is not applied here: use {_ELSEWHERE[name]}", name, "unsupported_field")
    xargs = body.get("vllm_xargs")
    if isinstance(xargs, Mapping) and "reweigh" in xargs:
        raise bad("vllm_xargs.reweigh is not applied here: use reweigh at the top level", "vllm_xargs.reweigh")
    for name in body.keys() - _ELSEWHERE.keys() - _NOT_OURS:
        if body[name] is not None and _LIKE_OURS.search(name.lower()):
            raise bad(
                f"{name:.80} is not known here: constraints are response_format, structured_outputs, tools and "
                'reweigh: {"constraint": ...}, and what else reweigh does stands in reweigh: {...}',
                name,
                "unsupported_field",
            )


def is_ours(body: Mapping[str, Any]) -> bool:
    """Whether a body asks for anything beside what plain vLLM does."""
    form = body.get("response_format")
    return (
        body.get("reweigh") is not None
        or body.get("structured_outputs") is not None
        or (form is not None and form != {"type": "text"})
        or (bool(body.get("tools")) and body.get("tool_choice") != "none")
        or body.get("tool_choice") not in (None, "none", "auto")
    )


def asked_of(body: Mapping[str, Any], names: Names, *, chat: bool) -> Asked:
    """Read a body that `is_ours`; ApiError (400) names the field and the remedy."""
    for name, neutral in _CHANGES_P.items():
        if name in body and body[name] not in neutral:
            raise bad(
                f"{name}={short(body[name])} would change p behind the weights' back: leave it out, or ask without a constraint",
                name,
                "unsupported_value",
            )
    for name, (allowed, remedy) in _NOT_WITH_WEIGHTS.items():
        if name in body and body[name] not in allowed:
            raise bad(f"{name} does not go with a constraint or weights: {remedy}", name, "unsupported_value")
    own = body.get("reweigh")
    own = {} if own is None else own
    if not isinstance(own, Mapping):
        raise bad(f"reweigh is {short(own)}: an object was wanted", "reweigh")
    for name in own:
        if name not in _OWN:
            raise bad(
                f"reweigh.{name} is not known; there are {', '.join(sorted(_OWN))}", f"reweigh.{name}", "unknown_field"
            )
    chosen = best_of(own, names)
    if not chat and (body.get("tools") or body.get("tool_choice") not in (None, "none")):
        raise bad("tools are for /v1/chat/completions", "tools" if body.get("tools") else "tool_choice")
    tools = tools_of(body) if chat else None
    spec, param, instruction = _constraint(body, own, names)
    if tools is not None:
        # A response_format is often sent with every request, and is of the answers in words by its definition.
        if param is not None and tools.always and not param.startswith("response_format"):
            raise bad(
                f"{param} says what an answer in words is, and tool_choice leaves none: leave one of them out, or use "
                'tool_choice "auto"',
                param,
            )
        spec, param = tools.spec(spec), "tools"
        instruction = "\n\n".join(filter(None, (instruction, tools.shown())))
    if spec is None and own.get("thinking"):
        raise bad("reweigh.thinking says where a constraint begins, and there is none", "reweigh.thinking")
    show = own.get("show_schema", True)
    if not isinstance(show, bool):
        raise bad(f"reweigh.show_schema is {short(show)}: true or false was wanted", "reweigh.show_schema")
    for name, kind, what in (("stream", bool, "true or false"), ("stream_options", Mapping, "an object")):
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise bad(f"{name} is {short(body[name])}: {what} was wanted", name)
    options = body.get("stream_options") or {}
    return Asked(
        spec=spec,
        constraint_param=param,
        instruction=instruction if show and chat else None,
        tools=tools,
        n=count(body, "n", 1, MOST_CHOICES, "n"),
        select=_one_of(own, "select", ("sample", "best"), "sample"),
        seed=_seed(body, own),
        settings=_settings(body, own, chosen),
        max_tokens=_max_tokens(body, chat),
        stream=body.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        logprobs=_logprobs(body, chat),
        return_particles=_flag(own, "return_particles"),
        thinking=_thinking(own),
        best_of=chosen,
        potential=partial_reward(own, names),
        adapted=adaptation(own, names.signals),
    )


def _constraint(
    body: Mapping[str, Any], own: Mapping[str, Any], names: Names
) -> tuple[Spec | None, str | None, str | None]:
    """The constraint, the field it came from, and what shows it to the model."""
    found: list[tuple[Spec, str, str | None]] = []
    form = body.get("response_format")
    if form is not None and form != {"type": "text"}:
        found.append(_response_format(form))
    if (outputs := body.get("structured_outputs")) is not None:
        found.append(_structured_outputs(outputs))
    if (given := own.get("constraint")) is not None:
        spec = spec_of(given, "reweigh.constraint", names)
        schema = spec.get("json_schema")
        found.append((spec, "reweigh.constraint", None if schema is None else shown(schema)))
    if len(found) > 1:
        raise bad(
            f"{found[0][1]} and {found[1][1]} both give a constraint: give one, or combine them in "
            'reweigh: {"constraint": {"all": [...]}}',
            found[1][1],
        )
    return found[0] if found else (None, None, None)


def _response_format(form: Any) -> tuple[Spec, str, str]:
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}, "response_format", "Answer with a JSON object alone, no other text."
    if kind != "json_schema":
        raise bad(
            f"response_format is {short(form)}: type text, json_object or json_schema was wanted", "response_format"
        )
    described = form.get("json_schema")
    place = "response_format.json_schema"
    if not isinstance(described, Mapping) or "schema" not in described:
        raise bad(f'{place}: an object with "name" and "schema" was wanted', place)
    strict = described.get("strict")
    if strict not in (None, True, False):
        raise bad(f"{place}.strict is {short(strict)}: true or false was wanted", f"{place}.strict")
    schema = checked_schema(described["schema"], f"{place}.schema")
    if strict:
        schema = strict_schema(schema)
    return {"json_schema": schema}, f"{place}.schema", shown(schema)


def _structured_outputs(given: Any) -> tuple[Spec, str, str | None]:
    if not isinstance(given, Mapping):
        raise bad(f"structured_outputs is {short(given)}: an object was wanted", "structured_outputs")
    given = {key: value for key, value in given.items() if value not in (None, False)}
    compact = given.get("disable_any_whitespace") is not None
    kinds = [key for key in given if key != "disable_any_whitespace"]
    known = ("json", "regex", "choice", "grammar", "json_object")
    if len(kinds) != 1 or kinds[0] not in known:
        raise bad(
            f"structured_outputs has {', '.join(kinds) or 'nothing'}: exactly one of {', '.join(known)} was wanted",
            "structured_outputs",
        )
    (kind,) = kinds
    value, place = given[kind], f"structured_outputs.{kind}"
    names = Names()
    if kind in ("json", "json_object"):
        schema = {"type": "object"} if kind == "json_object" else checked_schema(value, place)
        spec = {"json_schema": schema, **({"whitespace": "compact"} if compact else {})}
        return spec, place, shown(schema)
    if kind == "grammar":
        if isinstance(value, str) and "::=" in value:
            raise bad(f"{place} is GBNF or EBNF: write it as a Lark grammar", place, "unsupported_value")
        return spec_of({"lark": value}, "structured_outputs", names), place, None
    return spec_of({kind: value}, "structured_outputs", names), place, None


def _settings(body: Mapping[str, Any], own: Mapping[str, Any], chosen: BestOf | None) -> dict[str, Any]:
    """Types and ranges that `settings_of` cannot name by their field here."""
    particles = count(own, "particles", 1, MOST_PARTICLES, "reweigh.particles") if chosen is None else chosen.k
    settings: dict[str, Any] = {
        "particles": particles if chosen is None or chosen.waves is None else chosen.waves.wave,
        "truncate": True,
        "temperature": max(number(body, "temperature", 1.0, 0.0, 100.0), LEAST_TEMPERATURE),
        "top_p": _top_p(body),
        "stop": _stop(body),
    }
    if own.get("ess_threshold") is not None:
        settings["ess_threshold"] = number(own, "ess_threshold", 0.5, 0.0, 1.0, "reweigh.ess_threshold")
    if own.get("resampling") is not None:
        kinds = ("systematic", "stratified", "residual", "multinomial")
        settings["resampling"] = _one_of(own, "resampling", kinds, "systematic")
    if own.get("resample_every") is not None:
        settings["resample_every"] = count(own, "resample_every", 1, 1 << 20, "reweigh.resample_every")
    if own.get("sampler") is not None:
        settings["sampler"] = own["sampler"]
    return settings


def _top_p(body: Mapping[str, Any]) -> float:
    share = number(body, "top_p", 1.0, 0.0, 1.0)
    if share == 0.0:
        raise bad("top_p is 0: a number above 0 and at most 1 was wanted", "top_p")
    return share


def _stop(body: Mapping[str, Any]) -> list[str]:
    stop = body.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stops, list)
        or len(stops) > 16
        or not all(isinstance(one, str) and 0 < len(one) <= LONGEST_STOP for one in stops)
    ):
        raise bad(f"stop: a text of 1 to {LONGEST_STOP} characters was wanted, or a list of at most 16", "stop")
    return stops


def _seed(body: Mapping[str, Any], own: Mapping[str, Any]) -> int | None:
    for values, param in ((own, "reweigh.seed"), (body, "seed")):
        seed = values.get("seed")
        if seed is None:
            continue
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
            raise bad(f"{param} is {short(seed)}: a whole number of 64 bits was wanted", param)
        return seed % 2**64
    return None


def _max_tokens(body: Mapping[str, Any], chat: bool) -> int | None:
    for name in ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",):
        if body.get(name) is not None:
            return count(body, name, 1, 1 << 30, name)
    return None if chat else 16


def _logprobs(body: Mapping[str, Any], chat: bool) -> int | None:
    """How many alternatives to tell of for each token; None: no log-probabilities at all."""
    if not chat:
        return None if body.get("logprobs") is None else count(body, "logprobs", 0, MOST_LOGPROBS, "logprobs")
    wanted = body.get("logprobs") is True
    alternatives = (
        0 if body.get("top_logprobs") is None else count(body, "top_logprobs", 0, MOST_LOGPROBS, "top_logprobs")
    )
    if alternatives and not wanted:
        raise bad("top_logprobs needs logprobs: true", "top_logprobs")
    return alternatives if wanted else None


def _thinking(own: Mapping[str, Any]) -> Thinking | str | None:
    given = own.get("thinking")
    if given is None:
        return "auto"
    if given is False:
        return None
    if isinstance(given, str) and 0 < len(given) <= 64:
        return Thinking(None, given)
    raise bad(f"reweigh.thinking is {short(given)}: the marker that ends it was wanted, or false", "reweigh.thinking")


def _one_of(values: Mapping[str, Any], name: str, known: tuple[str, ...], default: str) -> str:
    value = values.get(name)
    if value is None:
        return default
    if value not in known:
        raise bad(f"reweigh.{name} is {short(value)}: one of {', '.join(known)} was wanted", f"reweigh.{name}")
    return str(value)


def _flag(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise bad(f"reweigh.{name} is {short(value)}: true or false was wanted", f"reweigh.{name}")
    return value
