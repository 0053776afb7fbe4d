"""Is a request lost, or a mask mixed up, while servers are killed and clients misbehave?"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np

from benchmarks.server.processes import ServerProgram
from benchmarks.server.program import TOKEN
from xsam import Frame, Query, XSamError
from xsam.remote import RemoteSegmenter

CLIENTS = 16
DEADLINE_S = 10.0
GRACE_S = 1.0
_QUIET_SHARE = 0.5  # of the requests come after the last kill: memory is compared between them
_HEAD = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_AUTHORIZED = f"Authorization: Bearer {TOKEN}\r\n".encode()


class Losses:
    """Sixteen clients that check every answer, and five kinds of disturbance."""

    def __init__(self, server: ServerProgram, requests: int) -> None:
        self._server = server
        self._left = requests
        self._quiet_at = int(requests * _QUIET_SHARE)
        self._total = requests
        self._lock = threading.Lock()
        self._codes: Counter[str] = Counter()
        self._problems: list[str] = []
        self._disturbed: Counter[str] = Counter()
        self._done = threading.Event()
        self._rss_mib: list[tuple[int, float]] = []  # requests that were left, memory

    def run(self) -> dict[str, Any]:
        """Send all requests."""
        clients = [threading.Thread(target=self._client, args=(index,)) for index in range(CLIENTS)]
        disturber = threading.Thread(target=self._disturb)
        watcher = threading.Thread(target=self._watch)
        for thread in (*clients, disturber, watcher):
            thread.start()
        for thread in clients:
            thread.join()
        self._done.set()
        disturber.join()
        watcher.join()
        quiet = [rss for left, rss in self._rss_mib if left < self._quiet_at * 0.8]
        third = max(1, len(quiet) // 3)
        early, late = np.median(quiet[:third]), np.median(quiet[-third:])
        return {
            "requests": self._total,
            "lost": len(self._problems),
            "problems": self._problems[:5],
            "codes": dict(self._codes),
            "disturbances": dict(self._disturbed),
            "rss_growth": round(float(late / early - 1), 4),
            "rss_mib": round(float(late), 1),
        }

    def _next(self) -> int | None:
        with self._lock:
            if self._left == 0:
                return None
            self._left -= 1
            return self._left

    def _client(self, index: int) -> None:
        chance = np.random.default_rng(index)
        frame, mask = _picture(chance)
        with RemoteSegmenter(self._server.url, token=TOKEN, reconnect_within_s=DEADLINE_S) as remote:
            while (number := self._next()) is not None:
                if chance.random() < 0.4:
                    frame, mask = _picture(chance)
                hook = (lambda stage: None) if chance.random() < 0.2 else None
                began_s = time.monotonic()
                try:
                    (result,) = remote.segment(
                        frame, [Query(text=f"red {number}")], deadline_s=DEADLINE_S, on_stage=hook
                    )
                    code = "OK"
                    if not np.array_equal(result.masks[0], mask):
                        self._note("the mask of another picture")
                except XSamError as error:
                    code = error.code
                except BaseException as error:
                    code = "UNTYPED"
                    self._note(f"{type(error).__name__}: {error}")
                if time.monotonic() - began_s > DEADLINE_S + GRACE_S:
                    self._note(f"{code} after {time.monotonic() - began_s:.1f} s")
                with self._lock:
                    self._codes[code] += 1

    def _note(self, problem: str) -> None:
        with self._lock:
            self._problems.append(problem)

    def _watch(self) -> None:
        while not self._done.wait(0.25):
            with contextlib.suppress(OSError):  # it is being started again
                self._rss_mib.append((self._left, self._server.rss_mib))

    def _disturb(self) -> None:
        chance = random.Random(0)
        kills = [self._total * 8 // 10, self._total * 6 // 10]
        while not self._done.wait(0.3):
            if kills and self._left < kills[0]:
                kills.pop(0)
                self._server.kill_and_restart()
                self._disturbed["server killed"] += 1
                continue
            kind = chance.choice(("slow client", "half-open", "wrong token", "huge body"))
            with contextlib.suppress(OSError, httpx.HTTPError):
                self._disturb_with(kind)
            self._disturbed[kind] += 1

    def _disturb_with(self, kind: str) -> None:
        address = ("127.0.0.1", self._server.port)
        if kind == "slow client":
            with socket.create_connection(address, timeout=2.0) as connection:
                connection.sendall(_HEAD + _AUTHORIZED + b"Content-Length: 1000\r\n\r\n")
                for _ in range(20):
                    connection.sendall(b"{")
                    time.sleep(0.02)
        elif kind == "half-open":
            with contextlib.ExitStack() as connections:
                for _ in range(30):
                    connections.enter_context(socket.create_connection(address, timeout=2.0)).sendall(_HEAD)
                time.sleep(0.3)
        elif kind == "wrong token":
            headers = {"authorization": "Bearer a-wrong-one"}
            httpx.post(f"{self._server.url}/v1/segment", content=b"x" * 100_000, headers=headers, timeout=5.0)
        else:
            headers = {"authorization": f"Bearer {TOKEN}", "content-type": "multipart/form-data; boundary=b"}
            body = b"x" * (40 << 20)
            httpx.post(f"{self._server.url}/v1/segment", content=body, headers=headers, timeout=5.0)


def _picture(chance: np.random.Generator) -> tuple[Frame, Any]:
    """Return a picture with a red box at a random place, and the mask of the box."""
    rgb = np.full((120, 160, 3), int(chance.integers(0, 200)), np.uint8)
    top, left = int(chance.integers(0, 80)), int(chance.integers(0, 120))
    rgb[top : top + int(chance.integers(5, 40)), left : left + int(chance.integers(5, 40))] = (255, 0, 0)
    return Frame(rgb=rgb), (rgb == (255, 0, 0)).all(axis=2)
