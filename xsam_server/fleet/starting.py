"""`xsam serve --ray CONFIG.yaml`: Ray on this machine, closed to others, and the fleet of a file on it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from xsam.errors import InvalidOptionError, ModelError
from xsam.web.gate import is_loopback
from xsam_server.clients import read_token_file
from xsam_server.fleet.options import FleetOptions, read_options

IMPORT_PATH = "xsam_server.fleet:app"
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # else whoever reaches one of Ray's ports can run code here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",  # a replica that is slow to tell still has the frame
    "RAY_worker_niceness": "0",  # else any other program on the machine comes before the model
}
_PRIVATE = 0o077  # umask: the token and the logs of Ray are for this user
_EVERY_INTERFACE = "every interface"


def read_config(path: Path) -> tuple[dict[str, Any], FleetOptions]:
    """Read a configuration file of Ray Serve with one application, the fleet.

    Returns:
        Its `http_options`, and the arguments of the application.

    Raises:
        InvalidOptionError: it is no such file, or would open the server to the network without a token.
        OSError: it cannot be read.
    """
    _prepare_environment()
    from ray.serve.schema import ServeDeploySchema

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = ServeDeploySchema.model_validate(content)
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise InvalidOptionError(
            f"{path} is no configuration file of Ray Serve: {error!s:.500}", hint="see docs/fleet.md"
        ) from None
    if [found.import_path for found in config.applications] != [IMPORT_PATH]:
        raise InvalidOptionError(f"{path} must have one application, with `import_path: {IMPORT_PATH}`")
    (found,) = config.applications
    if found.deployments:
        raise InvalidOptionError(
            f"{path}: `deployments` would change the replicas behind the back of `args`",
            hint="their options belong under `args`, see docs/fleet.md",
        )
    if found.route_prefix != "/":
        raise InvalidOptionError(f"{path}: `route_prefix` must be /, got {found.route_prefix!r:.80}")
    options = read_options(found.args)
    http = {key: value for key, value in config.http_options.model_dump().items() if value is not None}
    host = str(http.get("host", _EVERY_INTERFACE))
    if options.token_file is not None:
        read_token_file(Path(options.token_file))  # the ingress does; an error here is seen at once
    elif not is_loopback(host):
        raise InvalidOptionError(
            f"{path}: `http_options` have the host {host}: other machines could use the model",
            hint="set `host: 127.0.0.1`, or `token_file` under `args`",
        )
    return http, options


def serve_fleet(path: Path) -> None:
    """Start Ray and the fleet of a configuration file, and serve until a signal ends the program.

    The cluster of RAY_ADDRESS is used if there is one; its security is that of whoever started it.

    Raises:
        InvalidOptionError: the file is not in order, see `read_config`.
        ModelError: the fleet does not start.
        OSError: a file cannot be read.
    """
    http, options = read_config(path)
    ended = threading.Event()
    with _ray(os.environ.get("RAY_ADDRESS"), options), _signals(ended):  # Ray has taken them for itself
        from ray import serve
        from ray.serve.config import ProxyLocation

        from xsam_server.fleet import app

        serve.start(proxy_location=ProxyLocation.EveryNode, http_options=http)
        try:
            try:
                serve.run(app(options.model_dump()), name="xsam", route_prefix="/")
            except RuntimeError as error:
                raise ModelError(f"the fleet did not start: {error}", hint="see the log above") from error
            scheme = "https" if http.get("ssl_certfile") else "http"
            url = f"{scheme}://{http['host']}:{http['port']}"
            print(f"xsam: serving on {url} (page), {url}/docs (API)", file=sys.stderr, flush=True)
            ended.wait()
        finally:
            serve.shutdown()


@contextmanager
def _ray(address: str | None, options: FleetOptions) -> Iterator[None]:
    """Be connected to a cluster: a given one, or one of this machine alone that ends with this program."""
    _prepare_environment()
    import ray

    if address is not None:
        ray.init(address=address)
    else:
        umask = os.umask(_PRIVATE)
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=_cpus(options),
                _node_ip_address="127.0.0.1",
            )
        finally:
            os.umask(umask)
    try:
        yield
    finally:
        ray.shutdown()


def _prepare_environment() -> None:
    """Set what Ray reads when it is imported, and not later.

    Raises:
        ModelError: it is too late.
    """
    if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ModelError(
            "Ray was imported without RAY_AUTH_MODE=token", hint="import xsam_server.fleet first"
        )
    os.environ.update(_ENVIRONMENT)


def _cpus(options: FleetOptions) -> int:
    """Return the CPUs that Ray may give away: more than there are, if the replicas are to share them."""
    wanted = options.most_replicas * options.num_cpus + options.ingress_replicas * options.ingress_num_cpus
    return max(os.cpu_count() or 1, int(wanted + 1))


@contextmanager
def _signals(ended: threading.Event) -> Iterator[None]:
    """Set an event at SIGINT or SIGTERM, after which the program ends in order."""

    def end(*_: object) -> None:
        if ended.is_set():  # a second signal: at once
            raise KeyboardInterrupt
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
