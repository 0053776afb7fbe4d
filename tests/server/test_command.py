"""`xsam serve` as a process: it says where it listens, answers, and ends with a signal."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import httpx
import pytest

from support.golden import GOLDEN
from support.model_server import PATIENCE_S
from support.polling import poll_until
from tests.agent.mcp.servers import ServerProcess, server_process
from tests.server.conftest import ask_with, picture, png

pytestmark = pytest.mark.slow
MODEL = ["-m", "xsam", "serve", str(GOLDEN / "a"), "--device", "cpu", "--threads", "1", "--port", "0"]
STARTING_S = 60.0


def _url(process: ServerProcess) -> str:
    process.wait_for("xsam: serving on ")
    return process.errors.split("xsam: serving on ")[1].split()[0]


def test_it_serves_until_a_signal(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("spot secret-of-spot\n")
    tokens.chmod(0o600)
    with server_process(tmp_path / "log", *MODEL, "--token-file", str(tokens)) as process:
        with httpx.Client(base_url=_url(process), timeout=PATIENCE_S) as http:

            def is_ready() -> bool:
                return http.get("/readyz").status_code == 200

            poll_until(is_ready, "the model", timeout_s=STARTING_S, interval_s=0.1)
            answer = ask_with(http)(png(picture()), headers={"authorization": "Bearer secret-of-spot"})
            assert answer.status_code == 200
            assert answer.json()["results"][0]["status"] in ("found", "unsure", "not_found")
        process.process.send_signal(signal.SIGTERM)
        assert process.seconds_until_it_ends() < 10
        assert process.process.returncode == 0
        assert "Traceback" not in process.errors
        assert "secret-of-spot" not in process.errors


def test_it_ends_while_the_model_is_loaded(tmp_path: Path) -> None:
    with server_process(tmp_path / "log", *MODEL) as process:
        assert httpx.get(f"{_url(process)}/readyz").json() == {"state": "loading"}
        process.process.send_signal(signal.SIGINT)
        assert process.seconds_until_it_ends() < 10
        assert process.process.returncode == 0
        assert "Traceback" not in process.errors


def test_a_model_that_is_not_there_ends_it(tmp_path: Path) -> None:
    arguments = ["-m", "xsam", "serve", str(tmp_path / "nothing"), "--port", "0"]
    with server_process(tmp_path / "log", *arguments) as process:
        process.seconds_until_it_ends()
        assert process.process.returncode == 1
        assert "error: " in process.errors
        assert "Traceback" not in process.errors


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--host", "0.0.0.0"], 2, "--token-file"),
        (["--token-file", "no-such-file"], 1, "no-such-file"),
        (["--tls-cert", "cert.pem"], 2, "--tls-cert and --tls-key"),
        (["--queue-size", "0"], 2, "--queue-size"),
    ],
)
def test_wrong_usage_ends_with_one_line(tmp_path: Path, arguments: list[str], code: int, named: str) -> None:
    with server_process(tmp_path / "log", *MODEL, *arguments) as process:
        process.seconds_until_it_ends()
        assert process.process.returncode == code
        assert named in process.errors
        assert "Traceback" not in process.errors


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with server_process(tmp_path / "log", *MODEL[:-1], port) as process:
            process.seconds_until_it_ends()
            assert process.process.returncode == 1
            assert "another program uses this port" in process.errors
