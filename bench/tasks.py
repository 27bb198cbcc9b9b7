"""The tasks that engines are compared on: a prompt, a constraint, a length. Standard library only, for any environment.

Regexes and the grammar are written so that every engine reads the same language: no negated classes, no `\\d`, no
optional white space, no choice left to a lexer. JSON is the exception: engines differ in the white space and the order
of keys they accept, so masses of JSON tasks compare only within one engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """What to generate; exactly one of regex, json_schema and lark is set.

    prompt      the whole text before the answer, chat markup included
    max_tokens  the end-of-sequence token counts as one
    hard        the model would answer outside the language: a test of who survives, not of speed
    """

    name: str
    prompt: str
    max_tokens: int
    regex: str | None = None
    json_schema: dict[str, Any] | None = None
    lark: str | None = None
    hard: bool = False

    @property
    def kind(self) -> str:
        return "regex" if self.regex is not None else "JSON" if self.json_schema is not None else "SQL"


def chat(instruction: str, examples: list[tuple[str, str]], question: str) -> str:
    """A dialogue in SmolLM2's chat markup, up to where the answer starts.

    Examples give the small model a fair chance of an answer in the language: masses are e^-1 to e^-4, not e^-40.
    """
    turns = [("system", instruction)]
    for asked, answered in examples:
        turns += [("user", asked), ("assistant", answered)]
    turns.append(("user", question))
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

USER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "plan": {"enum": ["free", "pro", "team"]},
        "active": {"type": "boolean"},
    },
    "required": ["name", "age", "plan", "active"],
    "additionalProperties": False,
}

BOOK = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "year": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["title", "year", "tags"],
    "additionalProperties": False,
}

# Read alike by Lark, llguidance and genlm-grammar; white space is part of the terminals.
SQL = r"""
start: "SELECT " columns " FROM " table where? order? limit? ";"?
columns: "*" | column_list
column_list: column | column ", " column_list
where: " WHERE " condition
condition: comparison | comparison " AND " condition | comparison " OR " condition
comparison: column " = " value | column " < " number | column " > " number | "(" condition ")"
order: " ORDER BY " column | " ORDER BY " column " DESC"
limit: " LIMIT " number
column: "id" | "name" | "age" | "city"
table: "users" | "orders"
value: number | string
number: NUMBER
string: STRING
NUMBER: /[1-9][0-9]?[0-9]?/
STRING: /'[A-Za-z]+'/
"""

TASKS = {
    task.name: task
    for task in (
        Task(
            name="date",
            prompt=chat(
                "Answer with a date as YYYY-MM-DD.",
                [
                    ("When was the United Nations founded?", "1945-10-24"),
                    ("When did the Titanic sink?", "1912-04-15"),
                ],
                "When did the first human walk on the Moon?",
            ),
            max_tokens=16,
            regex="[0-9]{4}-[0-9]{2}-[0-9]{2}",
        ),
        Task(
            name="email",
            prompt=chat(
                "Answer with an email address.",
                [
                    ("John Miller of Globex", "john.miller@globex.com"),
                    ("Maria Lopez of Initech", "lopez@initech.org"),
                ],
                "Anna Smith of Acme",
            ),
            max_tokens=32,
            regex="[a-z]+([.][a-z]+)?@[a-z]+[.](com|org|net)",
        ),
        Task(
            name="ipv4",
            prompt=chat(
                "Answer with an IPv4 address.",
                [("a name server", "8.8.8.8"), ("this computer", "127.0.0.1")],
                "the router at home",
            ),
            max_tokens=24,
            regex=rf"{OCTET}[.]{OCTET}[.]{OCTET}[.]{OCTET}",
        ),
        Task(
            name="json-user",
            prompt=chat(
                "Describe the user as a JSON object.",
                [
                    ("Tom, 41, paying", '{"name": "Tom", "age": 41, "plan": "pro", "active": true}'),
                    ("Rita left us", '{"name": "Rita", "age": 29, "plan": "free", "active": false}'),
                ],
                "The whole team of Maria Gonzalez uses it",
            ),
            max_tokens=64,
            json_schema=USER,
        ),
        Task(
            name="json-book",
            prompt=chat(
                "Describe the book as a JSON object.",
                [
                    ("Dracula", '{"title": "Dracula", "year": 1897, "tags": ["horror", "gothic"]}'),
                    ("Emma", '{"title": "Emma", "year": 1815, "tags": ["romance"]}'),
                ],
                "a famous novel about the sea",
            ),
            max_tokens=80,
            json_schema=BOOK,
        ),
        Task(
            name="sql",
            prompt=chat(
                "Table users: id, name, age, city. Table orders: id, name. Answer with an SQL query.",
                [
                    ("all orders", "SELECT * FROM orders"),
                    ("the three oldest users", "SELECT id, name FROM users ORDER BY age DESC LIMIT 3"),
                    ("users called Tom", "SELECT id, city FROM users WHERE name = 'Tom'"),
                ],
                "names of users older than 30 who live in Paris",
            ),
            max_tokens=48,
            lark=SQL,
        ),
        Task(
            name="json-zero-shot",
            prompt=chat("Describe the user as a JSON object.", [], "The whole team of Maria Gonzalez uses it"),
            max_tokens=64,
            json_schema=USER,
            hard=True,
        ),
        # A mass of about e^-41.
        Task(
            name="mac-adverse",
            prompt=chat("You are a poet. Answer with a poem.", [], "Write a poem about the autumn rain."),
            max_tokens=20,
            regex="[0-9A-F]{2}(:[0-9A-F]{2}){5}",
            hard=True,
        ),
    )
}
