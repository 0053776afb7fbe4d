"""Script that `test_processes.py` starts twice: `xsam.train.run`, then write the final weights."""

from __future__ import annotations

from safetensors.torch import save_file

from xsam.train.command import app
from xsam.train.trainer import Trainer

_fit = Trainer.fit


def _fit_and_write(trainer: Trainer) -> None:
    rank = trainer.accelerator.process_index
    _fit(trainer)
    module = trainer.accelerator.unwrap_model(trainer.module)
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    save_file(weights, trainer.out / f"rank{rank}.safetensors")


if __name__ == "__main__":
    Trainer.fit = _fit_and_write  # type: ignore[method-assign]
    app()
