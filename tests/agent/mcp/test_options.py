"""The command line of the MCP server, and the entry point by which it finds the ROS client."""

from __future__ import annotations

import json
import socket
import struct
import sys
import zlib
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("mcp")

from xsam import FakeSegmenter
from xsam_agent_tools.mcp.http import HttpSettings
from xsam_agent_tools.mcp.options import ServerOptions, ToolMode, open_toolkit, run_command_line
from xsam_agent_tools.mcp.server import main

EXAMPLES = Path(__file__).parents[3] / "examples"
HTTP = ["--scene", "1", "--transport", "http"]


def _parse(*arguments: str) -> ServerOptions:
    parsed: list[ServerOptions] = []
    with pytest.raises(SystemExit) as caught:
        run_command_line(parsed.append, list(arguments))
    assert caught.value.code == 0
    (options,) = parsed
    return options


def test_defaults() -> None:
    options = _parse("--scene", "7")
    assert (options.scene, options.ros, options.image) == (7, None, None)
    assert (options.model, options.cameras, options.mode) == ("tiny", (), ToolMode.CORE)
    assert (options.no_images, options.deadline_s) == (False, 60.0)
    assert options.http is None


def test_every_option(tmp_path: Path) -> None:
    picture = tmp_path / "view.png"
    picture.touch()
    options = _parse(
        *("--image", str(picture), "--model", str(tmp_path), "--cameras", "front, wrist", "--mode", "full"),
        *("--no-images", "--deadline-s", "2.5", "--transport", "http", "--port", "0"),
    )
    assert (options.image, options.model, options.cameras) == (
        picture,
        str(tmp_path),
        ("front", "wrist"),
    )
    assert (options.mode, options.no_images, options.deadline_s) == (ToolMode.FULL, True, 2.5)
    assert options.http == HttpSettings(port=0)


def test_a_model_server(monkeypatch: pytest.MonkeyPatch) -> None:
    options = _parse("--scene", "1", "--server", "http://gpu:8080", "--server-token", "secret-of-the-arm")
    assert (options.server, options.server_token) == ("http://gpu:8080", "secret-of-the-arm")
    monkeypatch.setenv("XSAM_SERVER_TOKEN", "secret-of-spot")
    assert _parse("--scene", "1", "--server", "http://gpu:8080").server_token == "secret-of-spot"


def test_options_of_http(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("--host", "0.0.0.0", "--allowed-host", "robot.local", "--allowed-host", "10.0.0.7:8000")
    monkeypatch.setenv("XSAM_MCP_TOKEN", "secret-token")  # where `ps` does not show it
    assert _parse(*HTTP, *hosts).http == HttpSettings(
        host="0.0.0.0", port=8000, allowed_hosts=("robot.local", "10.0.0.7:8000"), token="secret-token"
    )
    monkeypatch.delenv("XSAM_MCP_TOKEN")
    for here in ("127.0.0.2", "::1", "localhost"):
        http = _parse(*HTTP, "--host", here).http
        assert http is not None
        assert (http.host, http.token) == (here, "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "exactly one"),
        (["--scene", "1", "--ros", "/xsam"], "exactly one"),
        (["--image", "missing.png"], "no such file"),
        (["--model", "oracle", "--ros", "/xsam"], "--scene"),
        (["--scene", "1", "--mode", "all"], "--mode"),
        (["--scene", "table"], "--scene"),
        (["--scene", "-5"], "--scene"),
        (["--scene", "1", "--cameras", "a,a"], "repeat"),
        (["--scene", "1", "--cameras", "a, ,b"], "--cameras"),
        (["--scene", "1", "--cameras", ",,"], "--cameras"),
        (["--scene", "1", "--cameras", "a" * 65], "--cameras"),
        (["--scene", "1", "--model", "no/such/model"], "no such folder"),
        (["--ros", "not a name"], "--ros"),
        (["--ros", "a\\x"], "--ros"),
        (["--scene", "1", "--deadline-s", "inf"], "--deadline-s"),
        (["--scene", "1", "--picture-scale", "0"], "--picture-scale"),
        (["--scene", "1", "--picture-scale", "1.5"], "--picture-scale"),
        (["--scene", "1", "--picture-scale", "nan"], "--picture-scale"),
        (["--scene", "1", "--port", "-1"], "--port"),
        (["--scene", "1", "--deadline-s", "nan"], "--deadline-s"),
        (["--scene", "1", "--deadline-s", "-1"], "--deadline-s"),
        (["--scene", "1", "--transport", "http", "--port", "99999"], "--port"),
        (["--scene", "1", "--host", "0.0.0.0"], "need --transport http"),
        (["--scene", "1", "--server", "gpu:8080"], "--server gpu:8080"),
        (["--scene", "1", "--server", "http://gpu", "--server-token", "short"], "--server http://gpu"),
        (["--scene", "1", "--server", "http://gpu", "--model", "oracle"], "--server answers"),
        (["--ros", "/xsam", "--server", "http://gpu"], "--server answers"),
        (["--scene", "1", "--allowed-host", "robot"], "need --transport http"),
        ([*HTTP, "--host", "192.168.1.5"], "--token"),
        ([*HTTP, "--host", "robot.local"], "--token"),
        ([*HTTP, "--host", "0.0.0.0", "--token", "long enough"], "without spaces"),
        ([*HTTP, "--host", "0.0.0.0", "--token", "secret-token"], "--allowed-host"),
        ([*HTTP, "--host", "a b"], "--host"),
        ([*HTTP, "--allowed-host", "http://robot"], "--allowed-host"),
        ([*HTTP, "--allowed-host", "robot:99999"], "--allowed-host"),
        ([*HTTP, "--token", "short"], "--token"),
    ],
)
def test_wrong_command_lines(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command_line(pytest.fail, arguments)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert reason in output.err
    assert output.out == ""  # standard output belongs to the protocol


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command_line(pytest.fail, [flag])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    for option in (
        "ros",
        "scene",
        "image",
        "model",
        "cameras",
        "mode",
        "no-images",
        "picture-scale",
        "deadline-s",
        "port",
        "host",
        "token",
    ):
        assert f"--{option}" in output


@pytest.mark.slow
def test_pictures_are_scaled() -> None:
    options = _parse("--scene", "2000012", "--model", "oracle", "--picture-scale", "0.5")
    with open_toolkit(options) as toolkit:
        show_camera = next(spec for spec in toolkit.specs if spec.name == "show_camera")
        result = json.loads(show_camera.call({})[0])
    assert (result["size"], result["picture"]["size"]) == ([640, 480], [320, 240])


def test_the_configuration_for_clients_starts_the_server() -> None:
    servers = json.loads((EXAMPLES / "mcp.json").read_text())["mcpServers"]
    for server in servers.values():
        assert (EXAMPLES.parent / server["command"]).is_file()
        assert server["args"][:3] == ["python", "-m", "xsam_agent_tools.mcp_server"]
        assert _parse(*server["args"][3:]).http is None
    assert servers.keys() == {"xsam-robot", "xsam-simulated-table"}


# ------------------------------------------------------------------------------- the ROS client


class FakeRosClient(FakeSegmenter):
    """A stand-in for the class that the ROS package registers."""

    closed: ClassVar[list[str]] = []

    def __init__(self, node: str) -> None:
        super().__init__({})
        self.node = node

    def __enter__(self) -> FakeRosClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.append(self.node)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a distribution with this entry point first on the path, as a sourced workspace does."""

    def make(entry_point: str) -> None:
        metadata = tmp_path / "xsam_ros-0.0.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: xsam-ros\nVersion: 0.0.0\n")
        (metadata / "entry_points.txt").write_text(f"[xsam.segmenters]\nros = {entry_point}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return make


def test_the_ros_client_is_found_by_its_entry_point(install) -> None:
    install(f"{__name__}:FakeRosClient")
    options = _parse("--ros", "/xsam", "--cameras", "front")
    with open_toolkit(options) as toolkit:
        (tool, *_) = toolkit.get_tools()
        assert tool.args["camera"]["enum"] == ["front"]
        assert FakeRosClient.closed == []
    assert FakeRosClient.closed == ["/xsam"]


def test_a_ros_package_that_cannot_be_imported_says_so(install) -> None:
    install("no_such_module:RosSegmenter")
    with pytest.raises(SystemExit, match=r"sourced ROS 2 workspace.*no_such_module"):
        open_toolkit(_parse("--ros", "/xsam")).__enter__()


def test_without_the_ros_package_the_option_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(SystemExit, match=r"xsam_ros.*source its setup file"):
        open_toolkit(_parse("--ros", "/xsam")).__enter__()


def test_a_port_in_use_is_one_line() -> None:
    """It was a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SystemExit, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"
        ):
            main(["--scene", "1", "--model", "oracle", "--transport", "http", "--port", str(port)])


def test_a_file_that_claims_gigabytes_is_refused_by_its_header(tmp_path: Path) -> None:
    """A PNG of 1.2 MB with 20,000² pixels took 23 s and 2.4 GB before it was refused."""
    content = b"\x89PNG\r\n\x1a\n"
    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    for chunk in (b"IHDR" + size, b"IDAT", b"IEND"):  # there is nothing to decode
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    picture = tmp_path / "view.png"
    picture.write_bytes(content)
    with open_toolkit(_parse("--image", str(picture))) as toolkit:
        tool = next(tool for tool in toolkit.get_tools() if tool.name == "segment_objects")
        failure = json.loads(tool.invoke({"queries": ["mug"]}))
    assert (failure["status"], failure["code"]) == ("error", "INVALID_IMAGE")
    assert "too large" in failure["message"]
