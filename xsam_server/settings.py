"""Settings of the server: whom it serves, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client by its token, and what it may take."""

    name: str
    token: str
    requests_per_s: float | None = None  # None = no limit
    concurrent: int | None = None  # requests at a time; None = no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Whom to serve, and the limits of a request."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0 = a free one
    allowed_hosts: tuple[str, ...] = ()  # names by which clients may call this machine, besides `host`
    clients: tuple[Client, ...] = ()  # none = no token is needed
    tls: tuple[Path, Path] | None = None  # certificate chain and key, PEM
    queue_size: int = 16  # requests that may wait for the model
    max_body_bytes: int = 32 << 20
    max_pixels: int = 25_000_000  # of an image
    max_deadline_s: float = 60.0  # no request lasts longer, whatever it asks for
    memory_bytes: int = 512 << 20  # bodies and pixels of the requests that are being answered
    frames_bytes: int = 256 << 20  # pixels that are kept for further requests, per client
    frames_age_s: float = 300.0  # a frame that nobody has asked about for so long is dropped
    request_within_s: float = 30.0  # a connection that has not sent a whole request is closed
    max_waiting: int = 400  # connections that have not sent a whole request; the oldest is closed
    label_studio_url: str = ""  # the one from which images of tasks may be fetched; "" = none
    label_studio_token: str = ""  # of a user there
    heartbeat_s: float = 5.0  # an empty line in streams of events, so that a dead connection is noticed
