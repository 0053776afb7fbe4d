"""Train the tiny checkpoint on pre-rendered scenes.

    python -m xsam.sim.shards --start 0 --count 24000 --size 192 --out data/train
    python -m xsam.sim.shards --start 1000000 --count 500 --size 192 --out data/val
    python -m xsam.train.tiny --train data/train --val data/val --out runs/tiny --minutes 75

The run stops by the clock and can be interrupted and continued with the same command. It leaves
`log.jsonl`, `state.pt` (to continue) and `checkpoint/` (averaged weights, for `XSam.load`).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xsam.checkpoint import save_checkpoint
from xsam.config import tiny_config
from xsam.model.initialize import initialize_weights
from xsam.model.xsam import XSamModel
from xsam.sim.shards import load_shards
from xsam.train.batches import SceneBatcher
from xsam.train.losses import LossWeights, MaskSampling
from xsam.train.scene_prompts import draw_kinds
from xsam.train.step import AuxiliaryHeads, batch_losses, run_batch
from xsam.train.tokenizer import build_tiny_tokenizer
from xsam.train.validation import validate

AUX_WEIGHT = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyRun:
    """Settings of a run."""

    minutes: float = 75.0
    batch_size: int = 8
    prompts_per_image: int = 5
    learning_rate: float = 8e-4
    warmup_steps: int = 200
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    validate_every: int = 400
    validate_scenes: int = 96
    max_steps: int | None = None


class TinyTrainer:
    """Model, optimizer, averaged weights and the position in the run."""

    def __init__(self, run: TinyRun, train: SceneBatcher, val: SceneBatcher, out: Path) -> None:
        torch.manual_seed(run.seed)
        self.run, self.train_data, self.val_data, self.out = run, train, val, out
        self.model = XSamModel(train.config)
        initialize_weights(self.model)
        m2f = train.config.mask2former
        self.heads = AuxiliaryHeads(m2f.feature_size, m2f.hidden_dim)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(
            _parameter_groups([self.model, self.heads], run), lr=run.learning_rate
        )
        self.step, self.elapsed_s = 0, 0.0

    def resume(self) -> bool:
        """Continue from `state.pt` if there is one."""
        path = self.out / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        return True

    def save(self) -> None:
        """Write everything needed to continue, and the averaged weights as a checkpoint folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / "state.pt.tmp"
        torch.save(
            {
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
            },
            temporary,
        )
        temporary.replace(self.out / "state.pt")
        save_checkpoint(self.ema, self.train_data.tokenizer, self.out / "checkpoint", dtype=torch.float16)

    def fit(self) -> None:
        """Train until the clock or the step limit is reached."""
        totals: dict[str, float] = {}
        budget_s = self.run.minutes * 60
        while self.elapsed_s < budget_s and self.step != self.run.max_steps:
            started = time.monotonic()
            for name, value in self.train_step(self.elapsed_s / budget_s).items():
                totals[name] = totals.get(name, 0.0) + value
            self.step += 1
            self.elapsed_s += time.monotonic() - started
            if self.step % 50 == 0:
                rounded = {name: round(value / 50, 3) for name, value in totals.items()}
                self._log({"step": self.step, "minutes": self.elapsed_s / 60, **rounded})
                totals = {}
            if self.step % self.run.validate_every == 0:
                self._log({"step": self.step, "minutes": self.elapsed_s / 60, "val": self.validate()})
                self.save()
        self._log({"step": self.step, "final": True, "val": self.validate(len(self.val_data))})
        self.save()

    def train_step(self, progress: float) -> dict[str, float]:
        """One optimizer step; `progress` in [0, 1) sets the learning rate."""
        run = self.run
        # The generator depends on the step alone, so an interrupted run sees the same data.
        rng = np.random.default_rng([run.seed, self.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for group in self.optimizer.param_groups:
            warmup = min(1.0, (self.step + 1) / run.warmup_steps)
            group["lr"] = (
                run.learning_rate
                * warmup
                * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
            )
        indices = rng.integers(len(self.train_data), size=run.batch_size)
        batch = self.train_data.batch(indices, draw_kinds(rng, run.prompts_per_image), rng)
        self.model.train()
        forward = run_batch(self.model, batch, generator=generator)
        losses = batch_losses(
            self.model,
            forward,
            batch,
            self.heads,
            weights=LossWeights(),
            sampling=MaskSampling(mode="mask"),
            generator=generator,
        )
        total = sum((AUX_WEIGHT if "aux" in name else 1.0) * value for name, value in losses.items())
        assert isinstance(total, Tensor)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, run.clip_norm)
        self.optimizer.step()
        self._average()
        kept = {name: float(value.detach()) for name, value in losses.items() if not name[-1].isdigit()}
        return {**kept, "loss": float(total.detach()), "grad_norm": float(norm)}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.run.ema_decay, (self.step + 1) / (self.step + 20))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def validate(self, scenes: int | None = None) -> dict[str, float]:
        """Scores of the averaged weights on validation scenes."""
        return validate(self.ema, self.val_data, scenes or self.run.validate_scenes)

    def _log(self, record: dict[str, object]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record)
        print(line, flush=True)
        with (self.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")


def _parameter_groups(modules: Sequence[torch.nn.Module], run: TinyRun) -> list[dict[str, object]]:
    """Weight decay for matrices, none for biases, norms and embeddings."""
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            embedding = any(word in name for word in ("embed", "queries_features", "logit_scale"))
            (plain if parameter.ndim < 2 or embedding else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": run.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m xsam.train.tiny`."""
    defaults = TinyRun()
    parser = argparse.ArgumentParser(prog="xsam.train.tiny", description="Train the tiny checkpoint.")
    parser.add_argument("--train", type=Path, required=True, help="folder with training shards")
    parser.add_argument("--val", type=Path, required=True, help="folder with validation shards")
    parser.add_argument("--out", type=Path, required=True, help="where the run is kept")
    parser.add_argument("--limit", type=int, help="use only this many training scenes")
    for name, value in asdict(defaults).items():
        kind = int if name == "max_steps" else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    options = vars(parser.parse_args(arguments))
    train, val, out, limit = (options.pop(name) for name in ("train", "val", "out", "limit"))
    tokenizer = build_tiny_tokenizer()
    config = tiny_config(vocab_size=len(tokenizer))
    trainer = TinyTrainer(
        TinyRun(**options),
        SceneBatcher(load_shards(train, limit), config, tokenizer, augment=True),
        SceneBatcher(load_shards(val), config, tokenizer, augment=False),
        out,
    )
    resumed = trainer.resume()
    count = sum(p.numel() for p in trainer.model.parameters())
    out.mkdir(parents=True, exist_ok=True)
    command = ["python -m xsam.train.tiny", *(sys.argv[1:] if arguments is None else arguments)]
    (out / "command.txt").write_text(" ".join(command) + "\n", encoding="utf-8")
    state = "resumed at" if resumed else "starting at"
    print(f"{count:,} parameters, {len(trainer.train_data)} scenes, {state} step {trainer.step}")
    trainer.fit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
