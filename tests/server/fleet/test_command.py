"""`xsam serve --ray` as a process: two replicas of a small model, one answer, and the end by a signal."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from support.fleet import START_WITHIN_S
from support.golden import GOLDEN
from support.model_server import PATIENCE_S
from support.polling import poll_until
from tests.agent.mcp.servers import server_process
from tests.server.conftest import ask_with, picture, png

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CONFIG = """
proxy_location: HeadOnly
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - import_path: xsam_server.fleet:app
    args: {{model: {model}, token_file: {tokens}, min_replicas: 2,
           threads: 1, num_cpus: 0, ingress_num_cpus: 0}}
"""


def _config(folder: Path, *, port: int = 8080) -> Path:
    tokens = folder / "tokens"
    tokens.write_text("spot secret-of-spot\n")
    tokens.chmod(0o600)
    path = folder / "fleet.yaml"
    path.write_text(CONFIG.format(port=port, model=GOLDEN / "a", tokens=tokens))
    return path


def test_it_serves_replicas_until_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["-m", "xsam", "serve", "--ray", str(_config(tmp_path, port=port))]
    with server_process(tmp_path / "log", *arguments) as process:
        poll_until(
            lambda: "xsam: serving on" in process.errors or process.process.poll() is not None,
            "the fleet",
            timeout_s=START_WITHIN_S,
            interval_s=0.1,
        )
        assert f"xsam: serving on http://127.0.0.1:{port} (page)" in process.errors
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False) as http:
            poll_until(lambda: http.get("/readyz").status_code == 200, "replicas", timeout_s=START_WITHIN_S)
            assert ask_with(http)(png(picture())).json()["code"] == "UNAUTHORIZED"
            answer = ask_with(http)(png(picture()), headers={"authorization": "Bearer secret-of-spot"})
            assert answer.json()["results"][0]["status"] in ("found", "unsure", "not_found")
        (token,) = home.glob(".ray/auth_token")
        assert os.stat(token).st_mode & 0o077 == 0, "others could read what opens Ray"
        process.process.send_signal(signal.SIGTERM)
        process.seconds_until_it_ends()
        assert process.process.returncode == 0
        assert "Traceback" not in process.errors
        assert "secret-of-spot" not in process.errors


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--ray", "no-such-file.yaml"], 2, "no-such-file.yaml"),
        (["--ray", "{config}", "--port", "9000"], 2, "leave out port"),
        (["--ray", "{broken}"], 2, "max_ongoing_requests is 1"),
    ],
)
def test_wrong_usage_ends_with_one_line(tmp_path: Path, arguments: list[str], code: int, named: str) -> None:
    config = _config(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_text(config.read_text().replace("min_replicas", "max_ongoing_requests: 1, min_replicas"))
    given = [argument.format(config=config, broken=broken) for argument in arguments]
    with server_process(tmp_path / "log", "-m", "xsam", "serve", *given) as process:
        process.seconds_until_it_ends()
        assert named in process.errors
        assert process.process.returncode == code
        assert "Traceback" not in process.errors
