"""The other side of a conversation with a node: a node of our own, spun by a thread."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from support.polling import poll_until

_SPIN_S = 0.05


class RosPeer:
    """A ROS context with one node and a thread that spins it, until `close` or the end of a `with` block."""

    def __init__(self, name: str | None = None) -> None:
        name = name or f"peer_{time.monotonic_ns()}"
        self.context = Context()
        rclpy.init(args=[], context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> RosPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and leave ROS."""
        self._closing.set()
        self._thread.join(30.0)
        self.executor.shutdown(timeout_sec=1.0)
        self._destroy_entities()
        self.node.destroy_node()
        try_shutdown(context=self.context)

    def call(
        self,
        service_type: type[Any],
        name: str,
        request: Any,
        *,
        timeout_s: float = 30.0,
        again_after_s: float | None = None,
    ) -> Any:
        """Call a service and return its response.

        Args:
            timeout_s: for the service to appear, and again for the response.
            again_after_s: send the request again when no response has come for so long: the middleware loses
                one now and then, if the server does not know the new client yet. Only for pure questions.

        Raises:
            TimeoutError: the service did not appear, or did not respond, in time.
        """
        client = self.node.create_client(service_type, name)
        try:
            poll_until(client.service_is_ready, f"service {name}", timeout_s=timeout_s)
            futures = [client.call_async(request)]
            sent_s = time.monotonic()

            def answered() -> Any:
                nonlocal sent_s
                if again_after_s is not None and time.monotonic() - sent_s > again_after_s:
                    futures.append(client.call_async(request))
                    sent_s = time.monotonic()
                return next((future for future in futures if future.done()), None)

            return poll_until(answered, f"response of {name}", timeout_s=timeout_s).result()
        finally:
            self.node.destroy_client(client)

    def collect(self, message_type: type[Any], topic: str, qos: Any = 10) -> list[Any]:
        """Subscribe to a topic; the returned list fills with its messages."""
        received: list[Any] = []
        self.node.create_subscription(message_type, topic, received.append, qos)
        return received

    def _destroy_entities(self) -> None:
        """Destroy what the node does not destroy itself; called once the thread has stopped."""

    def _spin(self) -> None:
        while not self._closing.is_set():
            self.executor.spin_once(timeout_sec=_SPIN_S)
