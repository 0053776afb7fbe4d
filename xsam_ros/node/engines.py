"""The engine that the parameters name: a model in this process, or a server with or without one behind it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from xsam.errors import InvalidOptionError, ModelError
from xsam.segmenter import Engine
from xsam_ros.node.parameters import NodeParameters

_MODEL_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
_CLIENT_PACKAGES = ("httpx2", "pydantic")


class Link(Protocol):
    """State of the link to a server; see `xsam.remote.link.LinkStatus`."""

    is_up: bool
    last_error: str
    round_trip_s: float
    bytes_sent: int
    bytes_received: int
    connections_lost: int


@runtime_checkable
class LinkedEngine(Engine, Protocol):
    """An engine whose model is behind a link."""

    @property
    def url(self) -> str:
        """Address of the server."""

    @property
    def link(self) -> Link:
        """State of the link after the last request or probe."""

    @property
    def is_local(self) -> bool:
        """True while a local model answers instead."""


def load_engine(parameters: NodeParameters) -> Engine:
    """Load the model, or prepare the link to the server, that the parameters name.

    Raises:
        ModelError: a Python package that is needed is not installed.
        InvalidOptionError: the address or the token of the server cannot be used.
        XSamError: as for `XSam.load`.
    """
    if parameters.engine == "local":
        return _load_local(parameters)
    if not parameters.server_url:
        raise InvalidOptionError("parameter engine is remote, and server_url is empty", hint="set server_url")
    _require(_CLIENT_PACKAGES, extra="remote")
    from xsam.remote import RemoteEngine, RemoteSegmenter

    try:
        remote = RemoteSegmenter(parameters.server_url, token_file=parameters.token_file or None)
    except OSError as error:
        raise InvalidOptionError(f"parameter token_file cannot be read: {error}") from None
    has_fallback = parameters.fallback == "local"
    return RemoteEngine(remote, load_local=(lambda: _load_local(parameters)) if has_fallback else None)


def _load_local(parameters: NodeParameters) -> Engine:
    _require(_MODEL_PACKAGES, extra="model")
    from xsam.engine import XSam  # imports PyTorch, so not before it is needed

    choices: dict[str, Any] = {"dtype": parameters.dtype, "llm_weights": parameters.llm_weights}
    return XSam.load(
        parameters.model,
        device=parameters.device,
        llm_device=parameters.llm_device or None,
        compiled=parameters.compiled,
        threads=parameters.threads or None,
        frame_cache_mib=parameters.frame_cache_mib,
        **choices,
    )


def _require(packages: Sequence[str], *, extra: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"the model needs Python packages that are not installed: {', '.join(missing)}",
            hint=f"colcon does not install them; run pip install '.[{extra}]' in the folder of X-SAM "
            f"with the Python of this node ({sys.executable})",
        )
