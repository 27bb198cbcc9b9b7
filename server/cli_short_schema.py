"""A JSON Schema in one line: `name, age int: in years, tags list[str], email str?`."""

from __future__ import annotations

import json
import re
from typing import Any

from grammars.errors import GrammarError

TYPES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "null": {"type": "null"},
    "object": {"type": "object"},
    "any": {},
    **{
        name: {"type": "string", "format": keyword}
        for name, keyword in {
            "date": "date",
            "time": "time",
            "datetime": "date-time",
            "email": "email",
            "uri": "uri",
            "uuid": "uuid",
        }.items()
    },
}
_LONG_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "list", "dict": "map"}

SHORT_FORM = """\
short form of a schema:
  FIELDS   field, field, ...        or a line each; an object with these members and no others
  field    name [type] [?] [: what it is, up to the next comma, or to the end of the line where fields have lines]
  type     str (default) int float bool null any object date time datetime email uri uuid
           list[type]   map[type]   {FIELDS}   a text "a" or number to be taken as it is   type | type
  ?        the member may be left out
  example  'name, age int: in years, size "S"|"M"|"L", tags list[str], home {street, zip int}?'"""

_WORD = re.compile(r"[^\W\d]\w*(?:-\w+)*")
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?')


def schema_from_short_form(text: str) -> dict[str, Any]:
    """The schema that a short form stands for. Raises GrammarError naming the character."""
    reader = _Reader(text)
    if re.match(r"\s*(list|map|array|dict)\s*\[", text):
        schema = reader.type()
    else:
        schema = reader.fields("")
    reader.skip()
    if reader.at < len(text):
        raise reader.wrong("a comma was wanted before this")
    return schema


class _Reader:
    """Recursive descent over the text; `at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        # With a line for each field descriptions may hold commas.
        self.lines = "\n" in text.strip()

    def fields(self, end: str) -> dict[str, Any]:
        members: dict[str, Any] = {}
        required: list[str] = []
        while True:
            self.skip()
            if self.at == len(self.text) or (end and self.text[self.at] == end):
                break
            start = self.at
            name, optional, schema = self.field(end)
            if name in members:
                self.at = start
                raise self.wrong(f"the member {name!r} is there already")
            members[name] = schema
            if not optional:
                required.append(name)
            if not self.separator():
                break
        if not members:
            raise self.wrong("a field was wanted, such as `name` or `age int`")
        return {"type": "object", "properties": members, "required": required, "additionalProperties": False}

    def separator(self) -> bool:
        """Step over what parts two fields."""
        start = self.at
        self.skip()
        if self.take(","):
            return True
        return self.lines and "\n" in self.text[start : self.at]

    def field(self, end: str) -> tuple[str, bool, dict[str, Any]]:
        name = self.name()
        optional = self.take("?")
        self.skip(lines=False)
        schema = dict(TYPES["str"])
        if self.at < len(self.text) and self.text[self.at] not in f",:?\n{end}":
            schema = self.type()
        self.skip(lines=False)
        optional = self.take("?") or optional
        self.skip(lines=False)
        if self.take(":"):
            stops = ("\n" if self.lines else ",") + end
            stop = min((k for s in stops if (k := self.text.find(s, self.at)) >= 0), default=len(self.text))
            if described := self.text[self.at : stop].strip().rstrip(","):
                schema = {**schema, "description": described}
            self.at = stop
        return name, optional, schema

    def name(self) -> str:
        if found := _LITERAL.match(self.text, self.at):
            if found[0][0] != '"':
                raise self.wrong("a field's name was wanted; put one that is a number in quotes")
            self.at = found.end()
            return str(self.literal(found[0]))
        return self.word("a field's name was wanted")

    def type(self) -> dict[str, Any]:
        alternatives = [self.single()]
        self.skip(lines=False)
        while self.take("|"):
            self.skip(lines=False)
            alternatives.append(self.single())
            self.skip(lines=False)
        if len(alternatives) == 1:
            return alternatives[0]
        if all("const" in one for one in alternatives):
            return {"enum": [one["const"] for one in alternatives]}
        return {"anyOf": alternatives}

    def single(self) -> dict[str, Any]:
        if found := _LITERAL.match(self.text, self.at):
            value = self.literal(found[0])
            self.at = found.end()
            return {"const": value}
        if self.take("{"):
            schema = self.fields("}")
            self.close("}")
            return schema
        start = self.at
        word = self.word("a type was wanted")
        word = _LONG_NAMES.get(word, word)
        if word in ("list", "map"):
            of: dict[str, Any] = {}
            if self.take("["):
                self.skip()
                of = self.type()
                self.close("]")
            return {"type": "array", "items": of} if word == "list" else {"type": "object", "additionalProperties": of}
        if word in ("true", "false"):
            return {"const": word == "true"}
        if word not in TYPES:
            self.at = start
            raise self.wrong(
                f"there is no type {word!r}: it may be {', '.join(TYPES)}, list[...], map[...], {{...}}, "
                f'or a text in quotes, "{word}"; a comma parts fields, a colon opens a description'
            )
        return dict(TYPES[word])

    def literal(self, written: str) -> Any:
        try:
            return json.loads(written)
        except ValueError as error:
            raise self.wrong(f"{written} is no JSON: {error}") from error

    def word(self, wanted: str) -> str:
        found = _WORD.match(self.text, self.at)
        if found is None:
            raise self.wrong(wanted)
        self.at = found.end()
        return found[0]

    def close(self, bracket: str) -> None:
        self.skip()
        if not self.take(bracket):
            raise self.wrong(f"a {bracket} was wanted")

    def take(self, character: str) -> bool:
        if self.text.startswith(character, self.at):
            self.at += 1
            return True
        return False

    def skip(self, lines: bool = True) -> None:
        """Step over white space; line ends only where they part nothing."""
        while self.at < len(self.text) and self.text[self.at].isspace() and (lines or self.text[self.at] != "\n"):
            self.at += 1

    def wrong(self, what: str) -> GrammarError:
        rest = self.text[self.at : self.at + 20]
        place = f"at character {self.at + 1}, {rest!r}" if rest else "at its end"
        return GrammarError(f"--schema in short form, {place}: {what}")
