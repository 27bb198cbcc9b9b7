"""What delimits the thoughts of a model that reasons: the marks of the reasoning parser that the operator has named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grammars.errors import EngineError

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def reasoning_parser(vllm_config: VllmConfig) -> tuple[str, str]:
    """The reasoning parser's name and the file it is to be read from; "" for none."""
    config = vllm_config.structured_outputs_config
    return config.reasoning_parser or "", config.reasoning_parser_plugin or ""


def marks_of(parser: Any) -> tuple[str | None, str | None]:
    """What a reasoning parser of vLLM's begins and ends a thought with; None where it has no such text."""
    found = (getattr(parser, name, None) for name in ("reasoning_start_str", "reasoning_end_str"))
    start, end = (mark if isinstance(mark, str) and mark else None for mark in found)
    return start, end


def thought_marks(name: str, plugin: str, tokenizer: Any) -> tuple[str, ...]:
    """The texts that delimit thoughts, for a parser by its name.

    tokenizer  of transformers
    Raises EngineError where there is no such parser, or it does not fit the tokenizer.
    """
    if not name:
        return ()
    from vllm.reasoning import ReasoningParserManager

    try:
        if plugin:
            ReasoningParserManager.import_reasoning_parser(plugin)
        parser = ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
    except Exception as error:  # whatever a plugin does
        what = error.args[0] if isinstance(error, KeyError) else error
        raise EngineError(f"the reasoning parser {name!r} does not fit: {what}") from error
    return tuple(mark for mark in marks_of(parser) if mark is not None)
