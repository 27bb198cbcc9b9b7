"""Tools: the constraint that makes a call well-formed, the words that show them to the model, and calls read back from a text.

A text that calls tools is <tool_call> with a JSON list of {"name", "arguments"}, as the embedded model was taught; when a call
is required or named there is no marker, and nothing else can be written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.api_constraints import Spec
from server.api_errors import bad
from server.api_schemas import checked_schema, strict_schema

MARKER = "<tool_call>"
MOST_TOOLS = 128
MOST_CALLS = 8


@dataclass(frozen=True)
class Tools:
    """The tools of a request.

    schemas   name -> JSON Schema of its arguments
    choice    auto, required, or the name of the one that must be called
    parallel  whether one answer may hold several calls
    described the tools as they came, for the model
    """

    schemas: Mapping[str, Any]
    choice: str
    parallel: bool
    described: list[Any]

    @property
    def named(self) -> str | None:
        return None if self.choice in ("auto", "required") else self.choice

    @property
    def always(self) -> bool:
        """Whether every answer calls a tool, so that none is in words."""
        return self.choice != "auto"

    def spec(self, otherwise: Spec | None) -> Spec:
        """What an answer may be. otherwise: what it has to be when it calls no tool; None is any text."""
        if self.named is not None:
            return {"json_schema": self.schemas[self.named]}
        calls = {"json_schema": self._calls()}
        if self.choice == "required":
            return calls
        call = {"then": {"marker": MARKER, "constraint": calls}} if otherwise is None else _after(MARKER, calls)
        return {"any": [call, _without(MARKER) if otherwise is None else otherwise]}

    def _calls(self) -> dict[str, Any]:
        one = {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"name": {"const": name}, "arguments": schema},
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
                for name, schema in self.schemas.items()
            ]
        }
        return {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_CALLS if self.parallel else 1}

    def shown(self) -> str:
        """What tells the model of the tools, where its chat template does not."""
        tools = json.dumps(self.described, ensure_ascii=False)
        if self.named is not None:
            return f"You call the function {self.named}. Answer with its arguments as JSON alone. Functions:\n{tools}"
        form = '[{"name": "function_name", "arguments": {"argument": "value"}}]'
        how = f"Answer with {form} alone." if self.choice == "required" else f"To call some, answer with {MARKER}{form}"
        return f"You have these functions:\n{tools}\n{how}"

    def read(self, text: str, complete: bool) -> tuple[str | None, list[dict[str, Any]]]:
        """An answer as its content and its calls, as OpenAI has them. complete: whether the text has come to its end."""
        if self.named is not None:
            return None, [_call(self.named, text)]
        content, marker, rest = ("", MARKER, text) if self.choice == "required" else text.partition(MARKER)
        if not marker:
            return text, []
        if not complete:
            # A call that was cut is no call: it is shown as it stands.
            return text, []
        calls = [_call(call["name"], json.dumps(call["arguments"], ensure_ascii=False)) for call in json.loads(rest)]
        return content or None, calls


def tools_of(body: Mapping[str, Any]) -> Tools | None:
    """The tools a body gives and wants used; None where it has none, or `tool_choice` is "none"."""
    given, choice = body.get("tools"), body.get("tool_choice")
    if not given:
        if choice not in (None, "none", "auto"):
            raise bad(f"tool_choice is {choice!r:.80}, but there are no tools: give some in tools", "tool_choice")
        return None
    if not isinstance(given, list) or len(given) > MOST_TOOLS:
        raise bad(f"tools: a list of at most {MOST_TOOLS} was wanted", "tools")
    schemas = dict(_tool(tool, f"tools[{k}]") for k, tool in enumerate(given))
    if len(schemas) != len(given):
        raise bad("tools: two of them have the same name", "tools")
    if choice == "none":
        return None
    parallel = body.get("parallel_tool_calls")
    if parallel not in (None, True, False):
        raise bad(f"parallel_tool_calls is {parallel!r:.80}: true or false was wanted", "parallel_tool_calls")
    return Tools(schemas, _choice(choice, schemas), parallel is not False, given)


def _tool(tool: Any, param: str) -> tuple[str, Any]:
    function = (
        tool.get("function") if isinstance(tool, Mapping) and tool.get("type", "function") == "function" else None
    )
    if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str) or not name:
        raise bad(f'{param}: {{"type": "function", "function": {{"name": ...}}}} was wanted', param)
    schema = function.get("parameters")
    if schema is None:
        return name, {"type": "object", "properties": {}, "additionalProperties": False}
    schema = checked_schema(schema, f"{param}.function.parameters")
    return name, strict_schema(schema) if function.get("strict") is True else schema


def _choice(choice: Any, schemas: Mapping[str, Any]) -> str:
    if choice in (None, "auto"):
        return "auto"
    if choice == "required":
        return "required"
    function = choice.get("function") if isinstance(choice, Mapping) else None
    named = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(named, str) or named not in schemas:
        raise bad(
            f"tool_choice is {choice!r:.80}: none, auto, required, or one of the tools was wanted ({', '.join(schemas)})",
            "tool_choice",
        )
    return named


def _without(marker: str) -> Spec:
    """Any text in which the marker does not occur."""
    return {"regex": rf"(?:(?!{marker})[\s\S])*"}


def _after(marker: str, spec: Spec) -> Spec:
    """The marker at once, and what a spec asks for after it."""
    return {"then": {"marker": marker, "constraint": spec, "max_free_characters": 0}}


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
