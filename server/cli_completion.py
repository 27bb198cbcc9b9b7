"""Completion scripts for shells, made from the commands' own options: nothing to be kept up by hand."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass

from server.cli_errors import OK
from server.cli_output import emit

SHELLS = ("bash", "zsh", "fish")
# What an option takes, by the last part of its metavar: a path is completed.
_PATHS = ("FILE", "SCHEMA", "SPEC", "FILE_OR_TEXT", "FILE_OR_URL")


def run(options: argparse.Namespace) -> int:
    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    emit(scripts[options.shell](commands_of(options.top)))
    return OK


@dataclass(frozen=True)
class Option:
    """flags: all spellings; takes: "" nothing, "path" a file, "word" something else; choices: what it may be."""

    flags: tuple[str, ...]
    takes: str
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    options: tuple[Option, ...]
    choices: tuple[str, ...]


def commands_of(top: argparse.ArgumentParser) -> list[Command]:
    """The commands of a parser with what each takes."""
    subparsers = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    made = []
    for name, command in subparsers.choices.items():
        options = tuple(_option(action) for action in command._actions if action.option_strings)
        words = [action for action in command._actions if not action.option_strings and action.choices]
        choices = tuple(str(choice) for action in words for choice in action.choices or ())
        made.append(Command(name, helps[name], options, choices))
    return made


def _option(action: argparse.Action) -> Option:
    takes = ""
    if action.nargs != 0:
        takes = "path" if str(action.metavar) in _PATHS or action.dest == "model" else "word"
    choices = tuple(str(choice) for choice in action.choices or ())
    return Option(tuple(action.option_strings), takes, choices, action.help or "")


def bash(commands: list[Command]) -> str:
    cases = []
    for command in commands:
        flags = " ".join(flag for option in command.options for flag in option.flags)
        values = [
            f"        {'|'.join(option.flags)}) {_bash_values(option)}; return ;;"
            for option in command.options
            if option.takes
        ]
        words = " ".join(command.choices)
        cases.append(
            f"    {command.name})\n"
            + ('      case "$previous" in\n' + "\n".join(values) + "\n      esac\n" if values else "")
            + f"      flags={shlex.quote(flags)}\n      words={shlex.quote(words)} ;;"
        )
    names = " ".join(command.name for command in commands)
    return f"""\
# Completion of reweigh for bash, printed by `reweigh completion bash`.
_reweigh() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" flags words
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {shlex.quote(names + " --help")} -- "$current"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{chr(10).join(cases)}
    *) return ;;
  esac
  case "$current" in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$current")) ;;
    *) if [ -n "$words" ]; then COMPREPLY=($(compgen -W "$words" -- "$current")); fi ;;
  esac
}}
complete -F _reweigh reweigh"""


def _bash_values(option: Option) -> str:
    if option.choices:
        return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(option.choices))} -- "$current"))'
    if option.takes == "path":
        return 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$current"))'
    return ":"


def zsh(commands: list[Command]) -> str:
    cases = []
    for command in commands:
        specs = [_zsh_option(option) for option in command.options]
        if command.choices:
            specs.append(shlex.quote(f"1:value:({' '.join(command.choices)})"))
        else:
            specs.append("'*:prompt:'")
        cases.append(f"    {command.name}) _arguments -s {' '.join(specs)} ;;")
    names = " ".join(shlex.quote(f"{command.name}:{_colonless(command.help)}") for command in commands)
    return f"""\
#compdef reweigh
# Completion of reweigh for zsh, printed by `reweigh completion zsh`.
_reweigh() {{
  local -a commands
  commands=({names})
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{chr(10).join(cases)}
  esac
}}
if [ "$funcstack[1]" = _reweigh ]; then _reweigh "$@"; else compdef _reweigh reweigh; fi"""


def _zsh_option(option: Option) -> str:
    described = "".join(" " if char in "[]:\n" else char for char in option.help)
    value = ""
    if option.choices:
        value = f":value:({' '.join(option.choices)})"
    elif option.takes:
        value = ":file:_files" if option.takes == "path" else ":value:"
    return " ".join(shlex.quote(f"*{flag}[{described}]{value}") for flag in option.flags)


def _colonless(text: str) -> str:
    return text.replace(":", " ")


def fish(commands: list[Command]) -> str:
    lines = ["# Completion of reweigh for fish, printed by `reweigh completion fish`.", "complete -c reweigh -f"]
    for command in commands:
        lines.append(f"complete -c reweigh -n __fish_use_subcommand -a {command.name} -d {_fish_text(command.help)}")
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        if command.choices:
            lines.append(f"complete -c reweigh {seen} -a {_fish_text(' '.join(command.choices))}")
        for option in command.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            value = ""
            if option.choices:
                value = f" -x -a {_fish_text(' '.join(option.choices))}"
            elif option.takes:
                value = " -r -F" if option.takes == "path" else " -x"
            lines.append(f"complete -c reweigh {seen} {flags}{value} -d {_fish_text(option.help)}")
    return "\n".join(lines)


def _fish_text(text: str) -> str:
    """A text in fish's single quotes, where only a backslash and a quote mean anything."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
