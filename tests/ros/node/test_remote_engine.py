"""The node with its model on a server: HTTP and DDS, the link lost and found again, and who answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition

from tests.ros.node_client import NodeClient
from xsam import InvalidOptionError
from xsam.remote import RemoteEngine
from xsam_ros.node.engines import load_engine
from xsam_ros.node.parameters import NodeParameters
from xsam_ros.srv import Segment

pytest.importorskip("fastapi")  # `colcon test` runs without the server
from support.model_server import FakeEngine, RunningServer, running_server
from xsam_server.settings import Client, ServerSettings

Eventually = Callable[..., Any]
WHOLE = np.ones((24, 32), np.bool_)  # the mask of all of the image that `NodeClient.segment` sends


def test_the_parameters_of_the_server(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-of-spot\n")
    remote = {"engine": "remote", "server_url": "http://127.0.0.1:9", "token_file": str(token)}
    engine = load_engine(NodeParameters(**remote))
    assert isinstance(engine, RemoteEngine)
    assert (engine.url, engine.is_local, engine.link.is_up) == ("http://127.0.0.1:9", False, False)
    engine.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"server_url": ""}, "server_url is empty"),
        ({"server_url": "gpu:8080"}, "no address of a server"),
        ({"token_file": "/nowhere/token"}, "token_file cannot be read"),
    ],
)
def test_what_cannot_be_used_is_named(options: dict[str, str], reason: str) -> None:
    given = {"engine": "remote", "server_url": "http://127.0.0.1:9", **options}
    with pytest.raises(InvalidOptionError, match=reason):
        load_engine(NodeParameters(**given))


def _start(spawn: Callable[..., Any], server: RunningServer, **params: Any) -> None:
    remote = {"engine": "remote", "server_url": server.url, "cameras": "[]", **params}
    spawn("-m", "xsam_ros.segmenter_node", params=remote)


def test_the_server_answers_and_its_loss_is_typed(
    spawn: Callable[..., Any], ros: Any, eventually: Eventually
) -> None:
    node = NodeClient(ros)
    statuses: list[DiagnosticArray] = ros.collect(DiagnosticArray, "/diagnostics")

    def link() -> DiagnosticStatus:
        found = [item for item in statuses[-1].status if item.name == "/xsam: server"] if statuses else []
        return found[0] if found else DiagnosticStatus()

    def engine() -> FakeEngine:
        return FakeEngine({"red": [WHOLE]}, model_id="on-the-server")

    with running_server(engine) as server:
        _start(spawn, server)
        eventually(lambda: node.active, "the active state")
        response = node.segment("red", timeout_s=20.0)
        assert response.status == Segment.Response.STATUS_ANSWERED
        (result,) = response.results
        assert (result.model_id, len(result.instances)) == ("on-the-server", 1)
        eventually(lambda: link().message == "connected", "the link in /diagnostics")
        assert not node.set("server_url", "http://127.0.0.1:9").successful, "images would go elsewhere"
    lost = node.segment("red", timeout_s=10.0)
    assert (lost.status, lost.code) == (Segment.Response.STATUS_REFUSED, "LINK_DOWN")
    eventually(lambda: "away" in link().message, "the loss in /diagnostics")
    assert link().level == DiagnosticStatus.ERROR
    with running_server(engine, port=server.port):
        again = node.segment("red", timeout_s=20.0)
        assert again.status == Segment.Response.STATUS_ANSWERED


def test_a_token_that_the_server_refuses_fails_configure_in_words(
    spawn: Callable[..., Any], ros: Any, eventually: Eventually, tmp_path: Path
) -> None:
    node = NodeClient(ros)
    token = tmp_path / "token"
    token.write_text("a-wrong-token\n")
    settings = ServerSettings(clients=(Client(name="spot", token="secret-of-spot"),))
    with running_server(lambda: FakeEngine({"red": [WHOLE]}), settings) as server:
        _start(spawn, server, token_file=str(token))
        reason = eventually(lambda: node.status.last_error, "the reason")
        assert "token is missing or wrong" in reason
        assert "a-wrong-token" not in reason
        assert node.status.state == "unconfigured"
        token.write_text("secret-of-spot\n")
        assert node.change(Transition.TRANSITION_CONFIGURE)
        assert node.status.state == "inactive"


def test_a_local_model_answers_meanwhile_and_says_so(
    spawn: Callable[..., Any], ros: Any, eventually: Eventually
) -> None:
    node = NodeClient(ros)
    with running_server(lambda: FakeEngine({"red": [WHOLE]}, model_id="on-the-server")) as server:
        _start(spawn, server, fallback="local", threads=1)
        eventually(lambda: node.active, "the active state", 60.0)
        assert node.segment("red").results[0].model_id == "on-the-server"
    response = node.segment("red", timeout_s=30.0)
    assert response.status == Segment.Response.STATUS_ANSWERED
    (result,) = response.results
    assert result.model_id == "tiny"
    assert any("answered by the local model tiny" in note for note in result.notes)
