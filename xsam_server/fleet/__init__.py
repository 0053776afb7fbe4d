"""The server on Ray Serve: an ingress with the same HTTP, and replicas of the engine, each with its own GPU.

::

    xsam serve --ray config/fleet_one_machine.yaml
    serve run xsam_server.fleet:app model=tiny     # Ray's own command

A request about a frame goes to the replica that holds the frame: Ray Serve's consistent hashing, by client
and frame. Whoever asks sees the server of `xsam serve`.

Importing this loads no Ray: Ray reads its security from the environment when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from xsam_server.fleet.options import FleetOptions, read_options

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["FleetOptions", "app", "read_options"]


def app(args: Mapping[str, Any]) -> Application:
    """Build the application; what Ray Serve calls with the `args` of its configuration file.

    Args:
        args: the fields of `FleetOptions`.

    Raises:
        InvalidOptionError: a field is unknown or has a value that is not allowed.
    """
    from xsam_server.fleet.deployments import application
    from xsam_server.fleet.replicas import load_engine

    options = read_options(args)
    return application(partial(load_engine, options), options)
