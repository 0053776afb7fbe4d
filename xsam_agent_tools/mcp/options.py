"""Options of the MCP server, and the toolkit that they describe."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsam.errors import InvalidImageError, InvalidOptionError, XSamError
from xsam.segmenter import Segmenter
from xsam.types.requests import Frame
from xsam.web.gate import is_host_name, is_loopback, is_token
from xsam_agent_tools.mcp.http import HttpSettings
from xsam_agent_tools.runtime.loading import LoadingSegmenter
from xsam_agent_tools.schemas import check_camera_names
from xsam_agent_tools.text.pictures import PictureSettings
from xsam_agent_tools.toolkit import XSamToolkit
from xsam_agent_tools.tools.definition import Images

if TYPE_CHECKING:
    from xsam.remote import RemoteSegmenter

ORACLE = "oracle"
SEGMENTERS = "xsam.segmenters"
"""Group of entry points: name → class of a segmenter; the ROS package registers its client as `ros`."""

_ROS_NAME = re.compile(r"/?[A-Za-z_]\w*(?:/[A-Za-z_]\w*)*", re.ASCII)
LOOPBACK = "127.0.0.1"
TOKEN_VARIABLE = "XSAM_MCP_TOKEN"
SERVER_TOKEN_VARIABLE = "XSAM_SERVER_TOKEN"

_PROGRAM = "python -m xsam_agent_tools.mcp_server"


class ToolMode(str, Enum):
    """Set of tools; see `XSamToolkit`."""

    CORE = "core"
    FULL = "full"


class Transport(str, Enum):
    """Transport of the Model Context Protocol."""

    STDIO = "stdio"
    HTTP = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of the command line; exactly one of `ros`, `scene` and `image` is given."""

    ros: str | None
    scene: int | None
    image: Path | None
    model: str
    cameras: tuple[str, ...]  # empty = all of the node, or "camera"
    mode: ToolMode
    no_images: bool
    deadline_s: float
    http: HttpSettings | None  # None = stdio
    server: str | None = None  # address of a model server that answers instead of a model of this process
    server_token: str = ""
    picture_scale: float = 1.0


def run_command_line(serve: Callable[[ServerOptions], None], arguments: list[str] | None = None) -> None:
    """Parse the arguments (default: those of the process), call `serve`, and exit.

    Raises:
        SystemExit: always; code 2 for a command line that makes no sense.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(context_settings={"help_option_names": ["-h", "--help"]})
    def command(
        ros: Annotated[
            str | None, typer.Option(metavar="NODE", help="A running segmenter node, e.g. /xsam.")
        ] = None,
        scene: Annotated[
            int | None, typer.Option(metavar="SEED", min=0, help="A simulated table, with depth.")
        ] = None,
        image: Annotated[
            Path | None, typer.Option(metavar="FILE", help="An image file, read again for every request.")
        ] = None,
        model: Annotated[
            str, typer.Option(help=f"tiny, a converted folder, or {ORACLE} (the truth about --scene).")
        ] = "tiny",
        server: Annotated[
            str | None,
            typer.Option(metavar="URL", help="A model server (xsam serve) instead of --model."),
        ] = None,
        server_token: Annotated[
            str,
            typer.Option(
                metavar="SECRET", envvar=SERVER_TOKEN_VARIABLE, help="Token for --server, if it needs one."
            ),
        ] = "",
        cameras: Annotated[
            str, typer.Option(help='Names, separated by commas; default: all of the node, else "camera".')
        ] = "",
        mode: Annotated[ToolMode, typer.Option(help="Set of tools.")] = ToolMode.CORE,
        no_images: Annotated[bool, typer.Option("--no-images", help="Text only.")] = False,
        picture_scale: Annotated[
            float, typer.Option(help="Size of the pictures, as a share of the camera's image: 0 to 1.")
        ] = 1.0,
        deadline_s: Annotated[float, typer.Option(help="Deadline of one call, in seconds.")] = 60.0,
        transport: Annotated[Transport, typer.Option(help="How clients connect.")] = Transport.STDIO,
        port: Annotated[int, typer.Option(min=0, max=65535, help="Port of http; 0 = a free one.")] = 8000,
        host: Annotated[
            str,
            typer.Option(metavar="ADDRESS", help="Address of http; a token is needed for the network."),
        ] = LOOPBACK,
        allowed_host: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="By which clients may call this machine; may be repeated."),
        ] = None,
        token: Annotated[
            str,
            typer.Option(
                metavar="SECRET", envvar=TOKEN_VARIABLE, help="That clients of http send as a bearer token."
            ),
        ] = "",
    ) -> None:
        """X-SAM's perception tools over MCP; give one of --ros, --scene and --image."""
        if sum(source is not None for source in (ros, scene, image)) != 1:
            raise typer.BadParameter("give exactly one of --ros, --scene and --image")
        if server is not None:
            _check_server(server, server_token, ros=ros, model=model)
        if model == ORACLE and scene is None:
            raise typer.BadParameter("--model oracle needs --scene")
        if image is not None and not image.is_file():
            raise typer.BadParameter(f"--image {image}: no such file")
        if model not in (ORACLE, "tiny") and not Path(model).is_dir():
            raise typer.BadParameter(f"--model {model}: no such folder")
        if ros is not None and not _ROS_NAME.fullmatch(ros):
            raise typer.BadParameter(f"--ros {ros}: no name of a ROS node, such as /xsam")
        names = tuple(name.strip() for name in cameras.split(",")) if cameras.strip() else ()
        try:
            names = check_camera_names(names) if names else ()
        except ValueError as error:
            raise typer.BadParameter(f"--cameras {cameras}: {error}") from error
        if not 0.0 < deadline_s < math.inf:
            raise typer.BadParameter(f"--deadline-s must be a positive number of seconds, got {deadline_s}")
        if not 0.0 < picture_scale <= 1.0:
            raise typer.BadParameter(f"--picture-scale must be above 0 and at most 1, got {picture_scale}")
        http = None
        if transport is Transport.HTTP:
            http = _http_settings(host, port, tuple(allowed_host or ()), token)
        elif host != LOOPBACK or allowed_host:
            raise typer.BadParameter("--host and --allowed-host need --transport http")
        serve(
            ServerOptions(
                ros=ros,
                scene=scene,
                image=image,
                model=model,
                cameras=names,
                mode=mode,
                no_images=no_images,
                deadline_s=deadline_s,
                http=http,
                server=server,
                server_token=server_token,
                picture_scale=picture_scale,
            )
        )

    app(arguments, prog_name=_PROGRAM)


def _check_server(url: str, token: str, *, ros: str | None, model: str) -> None:
    """Check that a model server can be asked; it is not contacted.

    Raises:
        typer.BadParameter: the address or the token is none, or another option answers already.
    """
    if ros is not None or model != "tiny":
        raise typer.BadParameter("--server answers instead of --ros and --model: give one of them")
    try:
        _remote(url, token).close()
    except InvalidOptionError as error:
        raise typer.BadParameter(f"--server {url}: {error}") from error


def _remote(url: str, token: str) -> RemoteSegmenter:
    """Return a client of a model server; the file of the client needs httpx2."""
    from xsam.remote import RemoteSegmenter

    return RemoteSegmenter(url, token=token)


def _http_settings(host: str, port: int, allowed_hosts: tuple[str, ...], token: str) -> HttpSettings:
    """Check the options of http.

    Raises:
        typer.BadParameter: one is not usable, or cameras would be open to the network.
    """
    for name in allowed_hosts:
        if not is_host_name(name):
            raise typer.BadParameter(f"--allowed-host {name}: give a name or address, and a port if needed")
    if not is_host_name(f"[{host}]" if ":" in host else host):
        raise typer.BadParameter(f"--host {host}: no address of this machine")
    if token and not is_token(token):
        raise typer.BadParameter("--token needs 8 or more characters of ASCII without spaces")
    if not is_loopback(host) and not token:
        raise typer.BadParameter(
            f"--host {host}: other machines could see through the cameras; add --token SECRET or set"
            f" {TOKEN_VARIABLE}"
        )
    if host in ("0.0.0.0", "::") and not allowed_hosts:
        raise typer.BadParameter(
            f"--host {host}: add --allowed-host NAME, by which clients call this machine"
        )
    return HttpSettings(host=host, port=port, allowed_hosts=allowed_hosts, token=token)


@contextmanager
def open_toolkit(options: ServerOptions) -> Iterator[XSamToolkit]:
    """Create the toolkit that the options describe, and close what it holds open at the end.

    Raises:
        SystemExit: the ROS client or its node is not available.
    """
    settings: dict[str, Any] = {
        "mode": options.mode.value,
        "deadline_s": options.deadline_s,
        "pictures": PictureSettings(scale=options.picture_scale),
    }
    images: Images = "none" if options.no_images else "tool"
    if options.ros is not None:
        with load_ros_client()(options.ros) as segmenter:
            cameras = options.cameras or tuple(_cameras_of_node(segmenter, options))
            pictures: Images = images if getattr(segmenter, "gives_frames", False) else "none"
            yield XSamToolkit(segmenter, cameras, images=pictures, **settings)
        return
    cameras = options.cameras or ("camera",)
    if options.scene is not None:
        from xsam.sim.oracle import SimulatedTable

        table = SimulatedTable(options.scene, cameras=dict.fromkeys(cameras, 0.0))
        with _model(options, oracle=table) as segmenter:
            yield XSamToolkit(segmenter, cameras, frame_source=table.frame, images=images, **settings)
        return
    image = options.image
    if image is None:
        raise ValueError("one of ros, scene and image must be given")
    with _model(options) as segmenter:
        yield XSamToolkit(
            segmenter,
            cameras,
            frame_source=lambda camera: _read_frame(image, camera),
            images=images,
            **settings,
        )


@contextmanager
def _model(options: ServerOptions, *, oracle: Segmenter | None = None) -> Iterator[Segmenter]:
    """Give what segments the frames of this process: a server, the truth about a scene, or a model."""
    if options.server is not None:
        with _remote(options.server, options.server_token) as remote:
            yield remote
    elif oracle is not None and options.model == ORACLE:
        yield oracle
    else:
        yield _load_in_background(options.model)


def load_ros_client() -> Callable[[str], Any]:
    """Load the segmenter class that the ROS package registers; the two packages do not import each other.

    Raises:
        SystemExit: the ROS package is not built, not sourced, or cannot be imported.
    """
    found = list(entry_points(group=SEGMENTERS, name="ros"))
    if not found:
        sys.exit(
            f"--ros needs the ROS 2 package xsam_ros, and no installed package provides the entry point"
            f" 'ros' of {SEGMENTERS}: build the workspace and source its setup file"
        )
    try:
        client: Callable[[str], Any] = found[0].load()
    except (ImportError, AttributeError) as error:
        sys.exit(
            f"--ros needs a sourced ROS 2 workspace with xsam_ros: cannot load {found[0].value}: {error}"
        )
    return client


def _cameras_of_node(segmenter: Any, options: ServerOptions) -> list[str]:
    try:
        status = segmenter.status(deadline_s=options.deadline_s)
    except XSamError as error:
        sys.exit(f"--ros {options.ros}: {error}")
    return [str(camera.name) for camera in status.cameras]


def _load_in_background(model: str) -> LoadingSegmenter:
    def load() -> Any:
        import xsam

        return xsam.XSam.load(model)

    return LoadingSegmenter(load)


def _read_frame(path: Path, camera: str) -> Frame:
    """Read the image file as a frame without a stamp, because its time of capture is not known."""
    from xsam.inference.images import read_image

    attempts = 3  # another program may be in the middle of writing the file
    for attempt in range(attempts):
        try:
            return Frame(rgb=read_image(path), camera=camera)
        except InvalidImageError:
            if attempt == attempts - 1:
                raise
        time.sleep(0.05)
    raise AssertionError
