"""What a fleet is made of: the `args` of the application in Ray Serve's configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xsam.errors import InvalidOptionError
from xsam.wire.conversion import validation_message
from xsam_server.settings import ServerSettings

REQUESTS_PER_CALL = 1
"""Requests that the model answers in one call: frames are encoded one at a time (docs/fleet.md)."""
_SPARE_CONNECTIONS = (
    64  # of the ingress, for refusals and health calls while all replicas and the queue are full
)


class FleetOptions(BaseModel):
    """The model, its replicas, whom they serve, and the limits.

    Options of the deployments are here and not under `deployments` of Ray's file, because they depend on each
    other, and Ray's own defaults would be wrong silently.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field("tiny", description="as `xsam serve MODEL`; a folder must be there on every node")
    device: str | None = Field(None, description="null: cuda if `num_gpus` is more than 0, else cpu")
    llm_weights: Literal["as_loaded", "int8", "bfloat16"] = "as_loaded"
    threads: int | None = Field(None, ge=1, description="CPU threads of a replica")
    frame_cache_mib: float | None = Field(None, ge=0, description="features of earlier frames, per replica")

    num_gpus: float = Field(0.0, ge=0, description="of each replica")
    num_cpus: float = Field(1.0, ge=0, description="of each replica")
    min_replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1, description="null: as `min_replicas`, no autoscaling")
    target_ongoing_requests: float = Field(
        2.0, gt=0, description="requests per replica that autoscaling aims at; they wait or run"
    )
    upscale_delay_s: float = Field(10.0, ge=0)
    downscale_delay_s: float = Field(300.0, ge=0)
    max_ongoing_requests: int = Field(
        4, ge=1, description="requests that a replica takes at a time; further ones go to the next replica"
    )
    max_queued_requests: int = Field(
        16, ge=1, description="requests that wait for a replica; further ones are refused (QUEUE_FULL)"
    )
    drain_s: float = Field(60.0, ge=0, description="how long a replica that ends may finish its requests")
    affinity: bool = Field(True, description="requests about a frame go to the replica that holds it")

    ingress_replicas: int = Field(1, ge=1, description="limits of clients hold for each")
    ingress_num_cpus: float = Field(0.5, ge=0)
    token_file: str | None = Field(None, description="of the node that runs the ingress; see docs/server.md")
    allowed_hosts: tuple[str, ...] = ()
    max_body_mib: float = Field(32.0, gt=0, le=1024)
    max_megapixels: float = Field(25.0, gt=0, le=268)
    max_deadline_s: float = Field(60.0, gt=0, le=86400)
    frames_mib: float = Field(256.0, ge=0, description="frames kept per client and replica")
    frames_age_s: float = Field(300.0, gt=0)
    memory_mib: float = Field(512.0, ge=1, description="requests that are being answered, per process")

    @property
    def most_replicas(self) -> int:
        return self.min_replicas if self.max_replicas is None else self.max_replicas

    @property
    def most_ongoing_requests(self) -> int:
        """What all replicas and the queue before them take."""
        return self.most_replicas * self.max_ongoing_requests + self.max_queued_requests

    @property
    def ingress_ongoing_requests(self) -> int:
        """More than that: else Ray's proxy would refuse requests itself, without a type."""
        return self.most_ongoing_requests + _SPARE_CONNECTIONS

    def settings(self) -> ServerSettings:
        """Return the limits as both the ingress and the replicas need them; without clients."""
        return ServerSettings(
            allowed_hosts=self.allowed_hosts,
            queue_size=self.max_ongoing_requests,  # Ray keeps it from filling up
            max_body_bytes=int(self.max_body_mib * 2**20),
            max_pixels=int(self.max_megapixels * 1e6),
            max_deadline_s=self.max_deadline_s,
            memory_bytes=int(self.memory_mib * 2**20),
            frames_bytes=int(self.frames_mib * 2**20),
            frames_age_s=self.frames_age_s,
        )


def read_options(args: Mapping[str, Any]) -> FleetOptions:
    """Check the arguments of an application.

    Raises:
        InvalidOptionError: the field that is wrong, and what to do.
    """
    try:
        options = FleetOptions.model_validate(args)
    except ValidationError as error:
        raise InvalidOptionError(
            f"the arguments of the fleet are not understood: {validation_message(error)}",
            hint="docs/fleet.md lists them",
        ) from None
    check_ongoing(options.max_ongoing_requests, requests_per_call=REQUESTS_PER_CALL)
    if options.most_replicas < options.min_replicas:
        raise InvalidOptionError(
            f"max_replicas is {options.max_replicas}, less than min_replicas, {options.min_replicas}"
        )
    if options.target_ongoing_requests > options.max_ongoing_requests:
        raise InvalidOptionError(
            f"target_ongoing_requests is {options.target_ongoing_requests:g}, more than max_ongoing_requests,"
            f" {options.max_ongoing_requests}: the fleet would never grow"
        )
    return options


def check_ongoing(max_ongoing_requests: int, *, requests_per_call: int) -> None:
    """Refuse a limit that keeps the model idle.

    A call of the model that could take several requests never gets them if the replica may hold fewer. And
    while a call runs, the next one's requests must be there already: read, decoded, and in the queue.

    Raises:
        InvalidOptionError: the limit is too low.
    """
    if max_ongoing_requests <= requests_per_call:
        raise InvalidOptionError(
            f"max_ongoing_requests is {max_ongoing_requests}, and a call of the model takes"
            f" {requests_per_call}: the model would be idle until the next one arrives",
            hint=f"set it to {2 * requests_per_call} or more",
        )
