"""The command line of `python -m server` as one tree."""

import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import main

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ["serve", "tokens", "remove-camera", "confirm-clock", "worker", "rebuild"]


def exit_code(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_help_lists_the_commands_and_the_flags_of_serving(capsys):
    assert exit_code(["--help"]) == 0
    text = capsys.readouterr().out
    for name in [*COMMANDS, "--listen", "--data", "--tls-key", "--auth"]:
        assert name in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    assert exit_code([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m server")
    assert "--data" in text or "add,list,revoke" in text


def test_flags_without_a_command_are_those_of_serving(capsys):
    assert main(["--listen", "nowhere"]) == main(["serve", "--listen", "nowhere"]) == 1
    without, named = capsys.readouterr().err.splitlines()
    assert without == named
    assert without.startswith("error: configuration: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-command"], "invalid choice: 'no-such-command'"),
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        # a flag before a command would be ignored
        (["--data", "elsewhere", "tokens", "list"], "unrecognized arguments: tokens list"),
        (["tokens"], "required: action"),
    ],
)
def test_what_is_no_command_line_is_refused(arguments, message, capsys):
    assert exit_code(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_command_imports_only_what_it_needs():
    heavy = ["fastapi", "uvicorn", "paho", "sqlalchemy", "prometheus_client"]
    script = f"import sys, server.cli; server.cli.build_parser(); print([n for n in {heavy} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
