"""Several processes that evaluate together, started by `accelerate launch` or `torchrun`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

_TIMEOUT = timedelta(hours=24)  # for the slowest process


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The group that this process belongs to; by default, it is alone.

    Attributes:
        index: number of this process in the group, from 0.
        count: size of the group.
        local_index: number of this process on its machine.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0

    @property
    def is_main(self) -> bool:
        """True for the process that reports the scores."""
        return self.index == 0

    def wait(self) -> None:
        """Return once all processes have called this."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def leave(self) -> None:
        """Leave the group, so that the others can end before this process."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()


def launched_processes() -> int:
    """Return the number of processes that a launcher started together with this one; 1 without a launcher."""
    count = os.environ.get("WORLD_SIZE", "")
    return max(1, int(count)) if count.isdecimal() and "RANK" in os.environ else 1


def join_processes(*, cpu: bool) -> Processes:
    """Join the processes that a launcher started together with this one.

    Args:
        cpu: the models run on the CPU.

    Raises:
        ImportError: `accelerate` is not installed.
    """
    if launched_processes() == 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=_TIMEOUT)
    return Processes(
        index=state.process_index, count=state.num_processes, local_index=state.local_process_index
    )
