"""The shared tasks mean the same to everyone who reads them."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import lark
import llguidance
import llguidance.hf
import pytest

from bench import tasks
from bench.tasks import SQL, TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUERIES = {
    "SELECT * FROM orders": True,
    "SELECT id, name FROM users ORDER BY age DESC LIMIT 3": True,
    "SELECT id, city FROM users WHERE name = 'Tom';": True,
    "SELECT name FROM users WHERE (age > 30 OR (city = 'Paris' AND id = 3)) LIMIT 100;": True,
    "SELECT name FROM users WHERE age > 3000": False,
    "SELECT name FROM users WHERE ((age > 30)": False,
    "SELECT name FROM users;;": False,
    "SELECT name, FROM users": False,
    "SELECT name FROM users LIMIT 0": False,
}


def test_the_tasks_need_only_the_standard_library():
    tree = ast.parse(Path(tasks.__file__).read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported and {module.split(".")[0] for module in imported if module} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_each_task_has_one_constraint_that_compiles(task: tasks.Task):
    assert sum(value is not None for value in (task.regex, task.json_schema, task.lark)) == 1
    if task.regex is not None:
        re.compile(task.regex)
        assert not re.search(r"\[\^|\\[dwsDWS]|[.](?!\])", task.regex), (
            "these mean different things to different engines"
        )
    if task.json_schema is not None:
        jsonschema.Draft202012Validator.check_schema(task.json_schema)


def test_the_chat_markup_is_the_tokenizers_own(tokenizer: PreTrainedTokenizerBase):
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": text} for role, text in turns]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tasks.chat("s", [("a", "b")], "c") == expected


@pytest.mark.parametrize(("query", "valid"), QUERIES.items())
def test_lark_and_llguidance_read_the_sql_grammar_alike(tokenizer: PreTrainedTokenizerBase, query: str, valid: bool):
    try:
        lark.Lark(SQL, parser="earley", lexer="dynamic_complete").parse(query)
        assert valid
    except lark.exceptions.LarkError:
        assert not valid
    matcher = llguidance.LLMatcher(
        llguidance.hf.from_tokenizer(tokenizer), llguidance.LLMatcher.grammar_from_lark(SQL), log_level=0
    )
    tokens = tokenizer(query).input_ids
    accepted = matcher.validate_tokens(tokens)
    matcher.consume_tokens(tokens[:accepted])
    assert (accepted == len(tokens) and matcher.is_accepting()) == valid
