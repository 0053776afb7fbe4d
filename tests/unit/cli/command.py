"""Running the `xsam` command in this process, and reading its one line of error."""

from __future__ import annotations

import json

from typer.testing import CliRunner, Result

from support.golden import GOLDEN
from xsam import cli

IMAGE = GOLDEN / "a" / "image.png"


def run_xsam(*arguments: object) -> Result:
    """Run the command; an exception that is not an exit is the test's failure."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_segment(*arguments: object) -> Result:
    return run_xsam("segment", IMAGE, *arguments, "--model", GOLDEN / "a", "--device", "cpu")


def error_line(result: Result, code: int) -> str:
    """The only line of the output."""
    assert result.exit_code == code
    assert "Traceback" not in result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ")
    return line


def json_line(result: Result, code: int) -> dict[str, str]:
    """The only line on stdout, as JSON."""
    assert result.exit_code == code
    assert "Traceback" not in result.output
    (line,) = result.stdout.splitlines()
    failure: dict[str, str] = json.loads(line)
    assert failure.keys() == {"status", "code", "message", "hint"}
    assert failure["message"]
    return failure
