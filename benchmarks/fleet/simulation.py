"""A simulated fleet (SimPy): replicas with a queue each, routed to as Ray Serve and `xsam_server.fleet` do.

What is in it: consistent hashing by frame with spill-over, or two random choices; the limits of a replica
and of the queue before it, with Ray's back-off; refusals of requests that would wait in vain; frames that are
not where a prompt goes and are sent again; deadlines that end a running call; batches of new frames.
What is not: the network's variance, processors that replicas share, and the time of a replica that starts.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from benchmarks.fleet.load import OK, Outcomes, RobotLoad

REFUSED, LATE = "QUEUE_FULL", "DEADLINE"
_CAUTION = 1.25  # as in xsam_server.answering
_SMOOTHING = 0.2
_BACK_OFF_S, _LONGEST_BACK_OFF_S = 0.025, 0.5  # of Ray Serve's router

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedFleet:
    """A fleet and how long its calls take."""

    replicas: int
    new_s: Sequence[float]  # calls about a frame that the replica has not computed; drawn from at random
    same_s: Sequence[float]  # further calls about a frame
    overhead_s: float = 0.0  # of HTTP and Ray, per request
    max_ongoing: int = 4
    max_queued: int = 16
    affinity: bool = True
    batch: int = 1  # new frames that are encoded together at most
    batch_gain: float = 1.0  # frames per second in a full batch, relative to one at a time


@dataclass(slots=True, eq=False)
class _Job:
    frame: int
    deadline_s: float  # on the clock of the simulation
    done: simpy.Event
    gone: bool = False


@dataclass(slots=True, eq=False)
class _Replica:
    environment: simpy.Environment
    fleet: SimulatedFleet
    chance: random.Random
    frames: set[int] = field(default_factory=set)
    queue: list[_Job] = field(default_factory=list)
    ongoing: int = 0
    busy: bool = False
    call_s: float = 0.0
    arrived: simpy.Event | None = None

    def would_be_in_vain(self, deadline_s: float) -> bool:
        """As `LocalAnswerer` judges: whether a request would still wait when its deadline passes."""
        needed_s = _CAUTION * (self.call_s * (len(self.queue) + 0.5) + self.call_s)
        return bool(self.queue) and needed_s > deadline_s - self.environment.now

    def put(self, job: _Job) -> None:
        self.queue.append(job)
        if self.arrived is not None and not self.arrived.triggered:
            self.arrived.succeed()

    def run(self) -> Process:
        """Answer one call after the other."""
        while True:
            self.queue = [job for job in self.queue if not job.gone]
            if not self.queue:
                self.arrived = self.environment.event()
                yield self.arrived
                continue
            jobs = [self.queue.pop(0)]
            is_new = jobs[0].frame not in self.frames
            if is_new and self.fleet.batch > 1:
                more = [job for job in self.queue if job.frame not in self.frames][: self.fleet.batch - 1]
                jobs += more
                self.queue = [job for job in self.queue if job not in more]
            took_s = self._seconds(len(jobs), is_new)
            ends_s = min(took_s, max(job.deadline_s for job in jobs) - self.environment.now)
            self.busy = True
            yield self.environment.timeout(max(0.0, ends_s))
            self.busy = False
            if took_s > ends_s:  # its deadline ended it
                continue
            self.call_s += (_SMOOTHING if self.call_s else 1.0) * (took_s - self.call_s)
            for job in jobs:
                self.frames.add(job.frame)
                if not job.gone:
                    job.done.succeed()

    def _seconds(self, count: int, is_new: bool) -> float:
        if not is_new:
            return self.chance.choice(self.fleet.same_s)
        full = max(1, self.fleet.batch - 1)
        gain = 1 + (self.fleet.batch_gain - 1) * (count - 1) / full
        return self.chance.choice(self.fleet.new_s) * count / gain


class _Simulation:
    def __init__(self, fleet: SimulatedFleet, load: RobotLoad, seed: int) -> None:
        self.environment = simpy.Environment()
        self.outcomes = Outcomes()
        self._fleet, self._load = fleet, load
        self._chance = random.Random(seed)
        self._replicas = [
            _Replica(self.environment, fleet, random.Random(seed + 1 + number))
            for number in range(fleet.replicas)
        ]
        self._in_flight = 0
        self._frame = 0

    def run(self) -> Outcomes:
        for replica in self._replicas:
            self.environment.process(replica.run())
        for _ in range(self._load.robots):
            self.environment.process(self._robot(self._chance.random() / self._load.hz))
        self.environment.run(until=self._load.seconds + 2 * self._load.deadline_s * self._load.prompts)
        return self.outcomes

    def _robot(self, phase_s: float) -> Process:
        yield self.environment.timeout(phase_s)
        while self.environment.now < self._load.seconds:
            self._frame += 1
            self.environment.process(self._look(self._frame))
            yield self.environment.timeout(1 / self._load.hz)

    def _look(self, frame: int) -> Process:
        """Ask about one frame, one prompt after the other."""
        order = random.Random(frame).sample(self._replicas, len(self._replicas))
        is_sent = False
        for _ in range(self._load.prompts):
            began_s = self.environment.now
            deadline_s = began_s + self._load.deadline_s
            self.outcomes.asked_by_id += is_sent
            code = yield from self._ask(frame, order, deadline_s, has_image=not is_sent)
            if code == "FRAME_NOT_KEPT":
                self.outcomes.sent_again += 1
                code = yield from self._ask(frame, order, deadline_s, has_image=True)
            is_sent = is_sent or code == OK
            self.outcomes.add(code, self.environment.now - began_s, self._load.deadline_s)

    def _ask(
        self, frame: int, order: list[_Replica], deadline_s: float, *, has_image: bool
    ) -> Generator[simpy.Event, Any, str]:
        yield self.environment.timeout(self._fleet.overhead_s)
        if self._in_flight >= self._fleet.replicas * self._fleet.max_ongoing + self._fleet.max_queued:
            return REFUSED
        self._in_flight += 1
        code = yield from self._pass_on(frame, order, deadline_s, has_image=has_image)
        self._in_flight -= 1
        return code

    def _pass_on(
        self, frame: int, order: list[_Replica], deadline_s: float, *, has_image: bool
    ) -> Generator[simpy.Event, Any, str]:
        now = self.environment
        replica = self._choose(order)
        back_off_s = _BACK_OFF_S
        while replica is None:
            if now.now >= deadline_s:
                return LATE
            yield now.timeout(min(back_off_s, deadline_s - now.now))
            back_off_s = min(2 * back_off_s, _LONGEST_BACK_OFF_S)
            replica = self._choose(order)
        if not has_image and frame not in replica.frames:
            return "FRAME_NOT_KEPT"
        if replica.would_be_in_vain(deadline_s):
            return REFUSED
        job = _Job(frame, deadline_s, now.event())
        replica.ongoing += 1
        replica.put(job)
        yield job.done | now.timeout(max(0.0, deadline_s - now.now))
        replica.ongoing -= 1
        job.gone = True
        return OK if job.done.triggered else LATE

    def _choose(self, order: list[_Replica]) -> _Replica | None:
        candidates = order
        if not self._fleet.affinity:
            two = self._chance.sample(self._replicas, min(2, len(self._replicas)))
            candidates = sorted(two, key=lambda replica: replica.ongoing)
        return next((one for one in candidates if one.ongoing < self._fleet.max_ongoing), None)


def simulate(fleet: SimulatedFleet, load: RobotLoad, *, seed: int = 0) -> Outcomes:
    """Return how the prompts of robots ended."""
    return _Simulation(fleet, load, seed).run()
