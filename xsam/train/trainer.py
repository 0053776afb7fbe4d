"""The training loop of all stages, on top of accelerate; resumable at every saved step."""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from xsam.data.samples import SampleSource
from xsam.errors import ModelError, TrainingConfigError
from xsam.inference.family import Network
from xsam.train.batches import PlannedBatches
from xsam.train.collate import Collator, TrainBatch
from xsam.train.lora import add_lora, merged_state
from xsam.train.mixture import BatchPlan
from xsam.train.networks import network_of
from xsam.train.optimizer import build_optimizers, freeze, schedule, set_rates
from xsam.train.stages import Stage, StageConfig
from xsam.train.step import StageModule
from xsam.train.validation import Validation
from xsam.weights.checkpoint import write_folder

HEADS_FILE = "heads.safetensors"


@dataclass(slots=True, kw_only=True)
class TrainingProgress:
    """Progress of a run; saved with the weights."""

    step: int = 0
    elapsed_s: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.elapsed_s = int(state["step"]), float(state["elapsed_s"])


class Trainer:
    """Trains one stage.

    Args:
        model: the model with its initial weights.
        tokenizer: saved with the checkpoint.
        config: recipe of the stage.
        sources: in the order of `config.sources`.
        out: folder of the run: `state/` to resume, `checkpoint/`, `log.jsonl`, TensorBoard files, and
            validation images.
        validation: images to score during training, or None.
        cpu: do not use a GPU.
    """

    def __init__(
        self,
        model: Network,
        tokenizer: Any,
        config: StageConfig,
        sources: Sequence[SampleSource],
        out: Path,
        *,
        validation: SampleSource | None = None,
        cpu: bool = False,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.tokenizer, self.out, self.sources = config, tokenizer, out, sources
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=_precision(config, cpu),
            log_with="tensorboard",
            project_dir=str(out),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        network = network_of(model)
        if config.lora is not None:
            add_lora(network.text_layers, config.lora)
        freeze(model, config)
        if config.gradient_checkpointing:
            for part in network.checkpointed:
                # Older releases of transformers 5 only have the second name.
                getattr(part, "activation_checkpointing_enable", part.gradient_checkpointing_enable)()
        module = StageModule(
            model,
            config.stage,
            weights=config.losses,
            sampling=config.sampling,
            classes=_classes(sources, config),
            attributes=config.attributes,
            grounding=config.grounding,
            words=config.words,
        )
        self.optimizers = build_optimizers(module, config)
        self.initially_frozen = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and config.frozen and name.startswith(config.frozen)
        ]
        prepared = self.accelerator.prepare(module, *self.optimizers)
        self.module, self.optimizers = prepared[0], list(prepared[1:])
        self.progress = TrainingProgress()
        self.accelerator.register_for_checkpointing(self.progress)
        self.ema: Network | None = None
        if config.ema_decay > 0:
            self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
            self.accelerator.register_for_checkpointing(self.ema)
        processes = self.accelerator.num_processes
        self.plan = BatchPlan(
            [len(source) for source in sources],
            batch_size=config.batch_size * processes,
            balance=config.balance,
            seed=config.seed,
        )
        self.batches = PlannedBatches(sources, self.plan, Collator(model.config, tokenizer), config)
        self.batches.rank, self.batches.processes = self.accelerator.process_index, processes
        self.validation = None if validation is None else Validation(validation, self.batches.collate, config)
        self.total_steps = config.steps or math.ceil(
            config.epochs * self.plan.batches_per_epoch / config.accumulation
        )

    @property
    def model(self) -> Network:
        """The model without wrappers."""
        return self.accelerator.unwrap_model(self.module).model

    def resume(self) -> bool:
        """Restore `state/` if the run has one; return whether it had."""
        state = self.out / "state"
        if not state.is_dir():
            state = self.out / "state.old"  # interrupted between the two renames in `save`
        if not state.is_dir():
            return False
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        settings = [(group["peak_lr"], group["weight_decay"]) for group in groups]
        self.accelerator.load_state(str(state))
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, (peak_lr, weight_decay) in zip(groups, settings, strict=True):
            group["peak_lr"], group["weight_decay"] = peak_lr, weight_decay  # from the recipe, not the file
        return True

    def save(self) -> None:
        """Write the state needed to resume, and a checkpoint folder with the (averaged) weights."""
        fresh, state, old = (self.out / name for name in ("state.new", "state", "state.old"))
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            # Before the state: a run whose state is finished is not saved again.
            trained = self.ema or self.model
            write_folder(
                merged_state(trained),
                trained.config,
                self.tokenizer,
                self.out / "checkpoint",
                dtype=torch.float32,
            )
            save_file(self._heads(), self.out / HEADS_FILE)
            if state.exists():  # otherwise `old` is the only state
                shutil.rmtree(old, ignore_errors=True)
                state.rename(old)
            fresh.rename(state)
            shutil.rmtree(old, ignore_errors=True)

    def _heads(self) -> dict[str, Tensor]:
        module: StageModule = self.accelerator.unwrap_model(self.module)
        return {
            name: value.detach().cpu().contiguous()
            for name, value in module.state_dict().items()
            if not name.startswith("model.")
        }

    def load_heads(self, run: Path) -> list[str]:
        """Initialize the auxiliary heads from those of an earlier run, where names and shapes match.

        Returns:
            The names of the loaded tensors.

        Raises:
            TrainingConfigError: the run has not saved any heads.
        """
        if not (run / HEADS_FILE).is_file():
            raise TrainingConfigError(f"no {HEADS_FILE} in {run}", hint="has that stage been saved?")
        saved = load_file(run / HEADS_FILE)
        matching = {
            name: saved[name]
            for name, value in self._heads().items()
            if name in saved and saved[name].shape == value.shape
        }
        module: StageModule = self.accelerator.unwrap_model(self.module)
        module.load_state_dict(matching, strict=False)
        return sorted(matching)

    def fit(self) -> None:
        """Train to the end of the stage; if interrupted, the run can be resumed from the last save."""
        config, accelerator = self.config, self.accelerator
        self.out.mkdir(parents=True, exist_ok=True)
        accelerator.init_trackers("tensorboard")
        self.batches.first = self.progress.step * config.accumulation
        loader = iter(DataLoader(self.batches, batch_size=None, num_workers=config.workers))
        bar = tqdm(
            total=self.total_steps or None,
            initial=self.progress.step,
            disable=not accelerator.is_main_process,
            mininterval=10.0,
            unit="step",
        )
        losses: dict[str, list[float]] = defaultdict(list)
        last_saved = self.progress.step
        while (share := self._share()) < 1:
            started = time.monotonic()
            for name, value in self.train_step(loader, share).items():
                losses[name].append(value)
            self.progress.step += 1
            bar.update()
            self._count_time(time.monotonic() - started)
            if self.progress.step % config.log_every == 0:
                bar.set_postfix_str(f"loss {np.mean(losses['loss']):.2f}")
                self._log_losses(losses)
            if self.progress.step % config.validate_every == 0:
                self.validate()
                self.save()
                last_saved = self.progress.step
        bar.close()
        if losses:
            self._log_losses(losses)
        if last_saved != self.progress.step or self.progress.step == 0:
            self.validate()
            self.save()
        accelerator.end_training()

    def _share(self) -> float:
        if self.config.minutes:
            return self.progress.elapsed_s / (60 * self.config.minutes)
        return self.progress.step / max(1, self.total_steps)

    def _count_time(self, seconds: float) -> None:
        """Advance the clock by the mean over processes, which must agree on when the run ends."""
        clock = torch.tensor([seconds], device=self.accelerator.device)
        self.progress.elapsed_s += float(self.accelerator.reduce(clock, reduction="mean"))

    def train_step(self, batches: Iterator[TrainBatch], share: float) -> dict[str, float]:
        """Take one optimizer step and return its losses and gradient norm.

        Args:
            batches: yields the batches of the step; there are `config.accumulation` of them.
            share: completed fraction of the run, which determines the learning rate.

        Raises:
            ModelError: the loss is not finite.
        """
        config, accelerator = self.config, self.accelerator
        self.module.train()
        for parameter in self.initially_frozen:
            parameter.requires_grad_(share >= config.frozen_until)
        set_rates(self.optimizers, schedule(share, config))
        kept: dict[str, float] = {}
        for part in range(config.accumulation):
            batch = next(batches).to(accelerator.device)
            number = self.progress.step * config.accumulation + part
            draw = np.random.default_rng([config.seed, number, accelerator.process_index, 5])
            generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
            last = part == config.accumulation - 1
            with accelerator.autocast(), _sync(accelerator, self.module, last):
                losses = self.module(batch, generator)
                total = torch.stack([value.float() for value in losses.values()]).sum()
                if not torch.isfinite(total):
                    raise ModelError(
                        f"the loss of step {self.progress.step} is not finite",
                        hint="the last save is intact; lower the learning rate and resume",
                    )
                accelerator.backward(total / config.accumulation)
            for name, value in {**losses, "loss": total}.items():
                if not name[-1].isdigit():  # not those of earlier decoder layers
                    kept[name] = kept.get(name, 0.0) + float(value.detach()) / config.accumulation
        norm = accelerator.clip_grad_norm_(self.module.parameters(), config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._update_average()
        return {**kept, "grad_norm": float(norm) if norm is not None else 0.0}

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.ema is None:
            return
        step = self.progress.step
        decay = min(self.config.ema_decay, (step + 1) / (step + 20))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def validate(self) -> None:
        """Score the (averaged) weights and draw some of their results."""
        if self.validation is None or not self.accelerator.is_main_process:
            return
        module: StageModule = self.accelerator.unwrap_model(self.module)
        scores = self.validation.run(
            self.ema or self.model,
            closed_set=module.closed_set,
            picture=self.out / f"validation_{self.progress.step:06d}.png",
        )
        self._log("val", scores)

    def _log_losses(self, losses: dict[str, list[float]]) -> None:
        self._log("train", {name: float(np.mean(values)) for name, values in losses.items()})
        losses.clear()

    def _log(self, group: str, values: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        step = self.progress.step
        self.accelerator.log({f"{group}/{name}": value for name, value in values.items()}, step=step)
        record = {
            "step": step,
            "minutes": round(self.progress.elapsed_s / 60, 2),
            group: {name: round(float(value), 4) for name, value in values.items()},
        }
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _sync(accelerator: Accelerator, module: Any, last: bool) -> Any:
    """Synchronize gradients between processes only for the last batch of a step."""
    return nullcontext() if last else accelerator.no_sync(module)


def _precision(config: StageConfig, cpu: bool) -> str:
    if config.precision != "auto":
        return config.precision
    return "bf16" if not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


def _classes(sources: Sequence[SampleSource], config: StageConfig) -> int:
    sets = {source.class_names for source in sources}
    if config.stage is not Stage.SEGMENTOR and config.attributes is None:
        return 0
    if len(sets) != 1 or not next(iter(sets)):
        raise TrainingConfigError(
            f"stage {config.stage.value} needs sources with one common closed set of classes",
            hint=f"got {', '.join(source.name for source in sources)}",
        )
    return len(next(iter(sets)))
