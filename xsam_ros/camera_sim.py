"""Entry point of the simulated camera: `python -m xsam_ros.camera_sim`; see `xsam_ros.simulated_camera`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xsam_ros.runtime.process import run_entry_point

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the camera until SIGINT or SIGTERM, which end it in every stage, also during its imports."""
    return run_entry_point(_load, arguments)


def _load() -> Callable[[Sequence[str] | None], int]:
    from xsam_ros.simulated_camera import main as run

    return run


if __name__ == "__main__":
    raise SystemExit(main())
