"""The training loop of all stages: accelerate for devices and processes, resumable to the step."""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
from xsam.model.xsam import XSamModel
from xsam.train.batches import PlannedBatches
from xsam.train.collate import Collator
from xsam.train.mixture import BatchPlan
from xsam.train.optimizer import build_optimizers, freeze, schedule, set_rates
from xsam.train.stages import Stage, StageConfig
from xsam.train.step import StageModule
from xsam.train.validation import Validation
from xsam.weights.checkpoint import save_checkpoint

HEADS_FILE = "heads.safetensors"


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a run stands; saved with the weights."""

    step: int = 0
    elapsed_s: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.elapsed_s = int(state["step"]), float(state["elapsed_s"])


class Trainer:
    """One stage of training.

    Args:
        model: with the weights to start from.
        sources: in the order of `config.sources`.
        validation: pictures to score while training, or None.
        out: folder of the run: `state/` to resume, `checkpoint/`, `log.jsonl`, TensorBoard files,
            validation pictures.
    """

    def __init__(
        self,
        model: XSamModel,
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
        freeze(model, config, last_vision_layer=model.config.vision_encoder.num_hidden_layers - 1)
        if config.gradient_checkpointing:
            for part in (model.llm, model.vision_encoder, model.segmentor.encoder):
                # The second is the only name in older releases of transformers 5.
                getattr(part, "activation_checkpointing_enable", part.gradient_checkpointing_enable)()
        module = StageModule(
            model,
            config.stage,
            weights=config.losses,
            sampling=config.sampling,
            classes=_classes(sources, config),
            attributes=config.attributes,
            grounding=config.grounding,
        )
        self.optimizers = build_optimizers(module, config)
        self.resting = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and config.frozen and name.startswith(config.frozen)
        ]
        prepared = self.accelerator.prepare(module, *self.optimizers)
        self.module, self.optimizers = prepared[0], list(prepared[1:])
        self.progress = Progress()
        self.accelerator.register_for_checkpointing(self.progress)
        self.ema: XSamModel | None = None
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
    def model(self) -> XSamModel:
        """The network without wrappers."""
        return self.accelerator.unwrap_model(self.module).model

    def resume(self) -> bool:
        """Continue from `state/` if the run has one."""
        state = self.out / "state"
        if not state.is_dir():
            state = self.out / "state.old"  # stopped between the two renames of `save`
        if not state.is_dir():
            return False
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        settings = [(group["peak_lr"], group["weight_decay"]) for group in groups]
        self.accelerator.load_state(str(state))
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, (peak_lr, weight_decay) in zip(groups, settings, strict=True):
            group["peak_lr"], group["weight_decay"] = peak_lr, weight_decay  # the recipe's, not the file's
        return True

    def save(self) -> None:
        """Write what is needed to continue, and a checkpoint folder with the best weights known."""
        fresh, state, old = (self.out / name for name in ("state.new", "state", "state.old"))
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            # Before the state: a run whose state says "finished" is not saved again.
            save_checkpoint(
                self.ema or self.model, self.tokenizer, self.out / "checkpoint", dtype=torch.float32
            )
            save_file(self._heads(), self.out / HEADS_FILE)
            if state.exists():  # else `old` is the only state there is
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
        """Start the training-only heads from those of an earlier run, as far as they fit.

        Returns:
            The names of the tensors that were taken.

        Raises:
            TrainingConfigError: the run has left no heads.
        """
        if not (run / HEADS_FILE).is_file():
            raise TrainingConfigError(f"no {HEADS_FILE} in {run}", hint="has that stage been saved?")
        found = load_file(run / HEADS_FILE)
        own = self._heads()
        fitting = {name: found[name] for name, value in own.items() if _same_shape(found.get(name), value)}
        module: StageModule = self.accelerator.unwrap_model(self.module)
        module.load_state_dict(fitting, strict=False)
        return sorted(fitting)

    def fit(self) -> None:
        """Train to the end of the stage; whatever stops it, the last save can be continued."""
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
            for name, value in self._step(loader, share).items():
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
        """All processes must agree on the clock, since it may decide about the end."""
        clock = torch.tensor([seconds], device=self.accelerator.device)
        self.progress.elapsed_s += float(self.accelerator.reduce(clock, reduction="mean"))

    def _step(self, loader: Any, share: float) -> dict[str, float]:
        """One optimizer step; `share` of the run sets the learning rate."""
        config, accelerator = self.config, self.accelerator
        self.module.train()
        for parameter in self.resting:
            parameter.requires_grad_(share >= config.frozen_until)
        set_rates(self.optimizers, schedule(share, config))
        kept: dict[str, float] = {}
        for part in range(config.accumulation):
            batch = next(loader).to(accelerator.device)
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
                        hint="the last save is untouched; lower the learning rate and start again",
                    )
                accelerator.backward(total / config.accumulation)
            for name, value in {**losses, "loss": total}.items():
                if not name[-1].isdigit():  # the decoder's earlier layers
                    kept[name] = kept.get(name, 0.0) + float(value.detach()) / config.accumulation
        norm = accelerator.clip_grad_norm_(self.module.parameters(), config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._average()
        return {**kept, "grad_norm": float(norm) if norm is not None else 0.0}

    @torch.no_grad()
    def _average(self) -> None:
        if self.ema is None:
            return
        step = self.progress.step
        decay = min(self.config.ema_decay, (step + 1) / (step + 20))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def validate(self) -> None:
        """Score the (averaged) weights and draw what they answer."""
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
    """Exchange gradients between processes only with the last part of a step."""
    return nullcontext() if last else accelerator.no_sync(module)


def _same_shape(found: Tensor | None, wanted: Tensor) -> bool:
    return found is not None and found.shape == wanted.shape


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
