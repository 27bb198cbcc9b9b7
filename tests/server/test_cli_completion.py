"""Completion scripts, asked as the shells ask them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from server.cli import main
from server.cli_completion import SHELLS, commands_of
from server.cli_parser import parser

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from server.cli_completion import bash

    path = tmp_path_factory.mktemp("completion") / "reweigh.bash"
    path.write_text(bash(commands_of(parser())))
    return path


def completed(script: Path, *words: str, folder: Path | None = None) -> set[str]:
    """What bash offers for the last word, by calling the function that the script registers."""
    quoted = " ".join(f"'{word}'" for word in words)
    code = f"""
        source {script}
        complete -p reweigh >/dev/null || exit 9
        COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}
        _reweigh && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, check=True, cwd=folder, timeout=30
    )
    return set(done.stdout.split())


@needs_bash
def test_bash_completes_commands_options_values_and_files(bash_script: Path, tmp_path: Path):
    (tmp_path / "schema.json").write_text("{}")
    assert completed(bash_script, "reweigh", "") >= {"json", "sql", "check", "completion"}
    assert completed(bash_script, "reweigh", "ch") == {"check", "choice"}
    assert completed(bash_script, "reweigh", "json", "--pa") == {"--particles"}
    assert completed(bash_script, "reweigh", "json", "--resampling", "s") == {"systematic", "stratified"}
    assert completed(bash_script, "reweigh", "json", "--schema", "sch", folder=tmp_path) == {"schema.json"}
    assert completed(bash_script, "reweigh", "json", "--particles", "") == set()
    assert completed(bash_script, "reweigh", "completion", "") == set(SHELLS)
    assert completed(bash_script, "reweigh", "check", "--text", "", folder=tmp_path) == {"schema.json"}


@needs_bash
def test_bash_offers_every_option_of_every_command(bash_script: Path):
    for command in commands_of(parser()):
        flags = {flag for option in command.options for flag in option.flags}
        assert flags and completed(bash_script, "reweigh", command.name, "-") == flags


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed_with_every_command(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in commands_of(parser()):
        assert command.name in script
    assert "particles" in script and "stratified" in script


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_shell_itself_can_read_its_script(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    assert main(["completion", shell]) == 0
    path = tmp_path / "script"
    path.write_text(capsys.readouterr().out)
    subprocess.run([shell, "-n", str(path)], check=True, timeout=30)


def test_an_unknown_shell_is_a_mistake(capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "tcsh"]) == 2
    assert "tcsh" in capsys.readouterr().err
