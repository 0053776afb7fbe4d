"""The deployments of Ray Serve: replicas of the engine, and the ingress in front of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from xsam.segmenter import Engine
from xsam.web.gate import App
from xsam_server.app import ModelServer, configure_logging
from xsam_server.clients import read_token_file
from xsam_server.fleet.options import FleetOptions
from xsam_server.fleet.remote_answerer import RemoteAnswerer
from xsam_server.fleet.replicas import EngineReplica

ENGINES = "EngineReplica"
_AFFINITY_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_START_ATTEMPTS = 3  # Ray's own 20 would repeat a wrong path for minutes
_LOOK_FOR_REQUESTS_S = 0.5


class FleetIngress:
    """The HTTP of `xsam serve`, in front of the replicas; it has no model and keeps no frames."""

    async def __init__(self, engines: Any, options: FleetOptions) -> None:  # type: ignore[misc]
        """Prepare, and look for replicas: an ingress that joins a running fleet must not refuse anybody.

        Args:
            engines: `ray.serve.handle.DeploymentHandle` of the replicas.
            options: whom to serve, and the limits.

        Raises:
            InvalidOptionError: the file of tokens is not in order.
            OSError: it cannot be read.
        """
        configure_logging()
        settings = options.settings()
        if options.token_file is not None:  # read here: in the arguments, tokens would lie in Ray's store
            settings = replace(settings, clients=read_token_file(Path(options.token_file)))
        app_name = serve.get_replica_context().app_name
        answerer = RemoteAnswerer(engines, options, count_running=lambda: _count_running(app_name))
        await answerer.look()
        self._server = ModelServer(answerer, settings)

    def __serve_build_asgi_app__(self) -> App:
        """Return the application; Ray Serve asks for it."""
        return self._server.app


def application(load: Callable[[], Engine], options: FleetOptions) -> Application:
    """Return the application of a fleet, for `ray.serve.run`.

    Args:
        load: returns the engine of a replica; called there.
        options: see there.
    """
    router = {}
    if options.affinity:
        router = {
            "request_router_class": _AFFINITY_ROUTER,
            "request_router_kwargs": {"num_fallback_replicas": max(1, options.most_replicas - 1)},
        }
    size: dict[str, Any] = {"num_replicas": options.min_replicas}
    if options.most_replicas > options.min_replicas:
        size = {
            "autoscaling_config": {
                "min_replicas": options.min_replicas,
                "max_replicas": options.most_replicas,
                "target_ongoing_requests": options.target_ongoing_requests,
                "upscale_delay_s": options.upscale_delay_s,
                "downscale_delay_s": options.downscale_delay_s,
            }
        }
    engines = serve.deployment(
        EngineReplica,
        name=ENGINES,
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.most_ongoing_requests,  # a backstop: see `RemoteAnswerer.check_room`
        graceful_shutdown_timeout_s=options.drain_s,
        graceful_shutdown_wait_loop_s=_LOOK_FOR_REQUESTS_S,
        max_constructor_retry_count=_START_ATTEMPTS,
        request_router_config=router,
        **size,
    )
    ingress = serve.deployment(
        serve.ingress()(FleetIngress),
        name=FleetIngress.__name__,
        num_replicas=options.ingress_replicas,
        ray_actor_options={"num_cpus": options.ingress_num_cpus},
        max_ongoing_requests=options.ingress_ongoing_requests,
        graceful_shutdown_timeout_s=options.drain_s,
        graceful_shutdown_wait_loop_s=_LOOK_FOR_REQUESTS_S,
        max_constructor_retry_count=_START_ATTEMPTS,
    )
    return ingress.bind(engines.bind(load, options.settings()), options)


def _count_running(app_name: str) -> tuple[int, str]:
    """Return the replicas whose model is loaded, and why others could not be started."""
    found = serve.status().applications.get(app_name)
    engines = None if found is None else found.deployments.get(ENGINES)
    if engines is None:
        return 0, ""
    failed = engines.status in ("UNHEALTHY", "DEPLOY_FAILED")
    return engines.replica_states.get("RUNNING", 0), engines.message if failed else ""
