"""Recipes of the three training stages: one YAML file per stage, with the same fields for both sizes.

Source: section 4 of the paper (arXiv 2508.04655). `recipes/` contains the shipped files.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import yaml

from xsam.config.fields import Field, Number, Whole, check_section
from xsam.errors import TrainingConfigError
from xsam.train.lora import LoraConfig
from xsam.train.losses import LossWeights, MaskSampling

RECIPES = Path(__file__).parent / "recipes"
STAGE_NAMES = ("stage1", "stage2", "stage3")
"""Names of the recipes of a size, and of the folders of their runs, in order."""
CONTINUED = "continued"
"""Folder of a run of the mixed stage that started from the checkpoint of the three stages."""


_MAX_RECIPE_BYTES = 1 << 20
_FRACTION = Number(0.0, 1.0)
_RATE = Number(0.0, 10.0)
_WEIGHT = Number(0.0, 1e6)
_RANGES: Mapping[str, Field] = {
    **dict.fromkeys(("steps", "max_unreadable", "validate_pictures"), Whole(0, 10**9)),
    **dict.fromkeys(("epochs", "minutes"), Number(0.0, 1e6)),
    **dict.fromkeys(("batch_size", "accumulation", "prompts_per_image"), Whole(1, 65_536)),
    **dict.fromkeys(("log_every", "validate_every"), Whole(1, 10**9)),
    "balance": _FRACTION,
    "workers": Whole(0, 1024),
    **dict.fromkeys(("learning_rate", "muon_learning_rate", "encoder_lr_factor"), _RATE),
    "weight_decay": _WEIGHT,
    "clip_norm": Number(0.0, 1e30),  # a large one switches it off
    **dict.fromkeys(("warmup", "final_lr", "ema_decay", "frozen_until"), _FRACTION),
    "seed": Whole(0, 2**63 - 1),
}
_PART_RANGES: Mapping[str, Mapping[str, Field]] = {
    "losses": dict.fromkeys(("classification", "mask", "dice", "no_object", "auxiliary"), _WEIGHT),
    "sampling": {
        "num_points": Whole(1, 10**7),
        "oversample_ratio": Number(1.0, 1000.0),
        "importance_ratio": _FRACTION,
        "match_stride": Whole(1, 64),
    },
    "lora": {"rank": Whole(1, 4096), "alpha": Number(0.0, 1e6), "dropout": Number(0.0, 0.9)},
}


class Stage(str, Enum):
    """The parts of the model that a stage trains."""

    SEGMENTOR = "segmentor"  # SAM encoder, connector, and mask decoder, with a closed-set class head
    ALIGNMENT = "alignment"  # projectors (or the parts in `trainable`), on text about images
    MIXED = "mixed"  # everything, on all tasks together


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A data source; `options` are the arguments of its reader, with paths relative to the data folder."""

    kind: str
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """Everything that determines a run, except for folders.

    Exactly one of `steps`, `epochs`, and `minutes` is positive. The learning rate warms up linearly over the
    fraction `warmup` of the run, then decays along a cosine to the fraction `final_lr` of its peak.
    """

    stage: Stage
    model: Literal["tiny", "full"] = "tiny"
    sources: tuple[SourceConfig, ...] = ()
    validation: SourceConfig | None = None
    balance: float = 0.1  # t of the repeat factor max(1, sqrt(t / f))

    steps: int = 0
    epochs: float = 0.0
    minutes: float = 0.0
    batch_size: int = 8  # images per process and batch
    accumulation: int = 1  # batches per optimizer step, for gradient accumulation
    prompts_per_image: int = 1
    workers: int = 0
    max_unreadable: int = 20  # images that a loader process may skip because their files are damaged

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    muon_learning_rate: float = 2e-3  # for weight matrices, with `optimizer: muon`
    encoder_lr_factor: float = 0.1  # both image encoders
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    warmup: float = 0.03
    final_lr: float = 0.0
    ema_decay: float = 0.0  # of averaged weights; 0 = none
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    trainable: tuple[str, ...] = ()  # prefixes of parameter names; empty = the default of the stage

    frozen: tuple[str, ...] = ()  # prefixes of parameters that are frozen for the first part of the run
    frozen_until: float = 0.0  # … up to this fraction of it

    losses: LossWeights = field(default_factory=LossWeights)
    sampling: MaskSampling = field(default_factory=MaskSampling)
    attributes: Mapping[str, int] | None = None  # auxiliary heads: attribute → number of values
    grounding: bool = False  # auxiliary coarse mask from the `<SEG>` embedding
    words: bool = False  # auxiliary words of each condition from its embedding
    lora: LoraConfig | None = None  # train low-rank updates of the language model instead of its matrices

    seed: int = 0
    log_every: int = 50
    validate_every: int = 500
    validate_pictures: int = 96

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_section("", {name: getattr(self, name) for name in _RANGES}, _RANGES, problems)
        for part, table in _PART_RANGES.items():
            values = getattr(self, part)
            if values is None:
                continue
            check_section(part, {name: getattr(values, name) for name in table}, table, problems)
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas must be numbers from 0 to below 1, got {list(self.betas)}")
        if self.warmup == 1 or self.ema_decay == 1:
            problems.append("warmup and ema_decay must be below 1")
        if problems:
            raise TrainingConfigError("; ".join(problems))
        lengths = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) > 0]
        if len(lengths) != 1:
            raise TrainingConfigError(
                f"exactly one of steps, epochs, and minutes must be positive, got {lengths or 'none'}"
            )
        if bool(self.frozen) != (self.frozen_until > 0):
            raise TrainingConfigError("frozen and frozen_until, a fraction of the run, must be set together")


def finished_runs(folder: Path) -> list[Path]:
    """Return the runs in a folder that have a log, in the order of training."""
    runs = [folder / name for name in (*STAGE_NAMES, CONTINUED)]
    return [run for run in runs if (run / "log.jsonl").is_file()]


def read_stage(path: str | Path, overrides: Mapping[str, Any] | None = None) -> StageConfig:
    """Read the recipe of a stage from YAML.

    Args:
        path: a file, or the name of a shipped recipe such as "tiny/stage1".
        overrides: fields that replace those of the file.

    Raises:
        TrainingConfigError: there is no such file, a field is unknown, or a value has the wrong type.
    """
    file = Path(path)
    if not file.is_file():
        file = RECIPES / f"{path}.yaml"
    if not file.is_file():
        known = sorted(str(p.relative_to(RECIPES).with_suffix("")) for p in RECIPES.rglob("*.yaml"))
        raise TrainingConfigError(
            f"no such recipe: {path}", hint=f"a YAML file, or one of {', '.join(known)}"
        )
    try:
        if file.stat().st_size > _MAX_RECIPE_BYTES:
            raise TrainingConfigError(f"{file} has more than {_MAX_RECIPE_BYTES >> 20} MiB: it is no recipe")
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise TrainingConfigError(f"{file} is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8
        raise TrainingConfigError(f"{file} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise TrainingConfigError(f"{file} must contain fields with values")
    try:
        return _build(StageConfig, {**data, **(overrides or {})})
    except TrainingConfigError as error:
        raise TrainingConfigError(f"{file}: {error.message}", hint=error.hint) from error


def _build(cls: type, data: Mapping[str, Any]) -> Any:
    """Build a dataclass from a YAML mapping, field by field."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(str(name) for name in set(data) - set(known))
    if unknown:
        raise TrainingConfigError(f"unknown field(s) {', '.join(unknown)}", hint=f"known: {', '.join(known)}")
    missing = [
        f.name
        for f in known.values()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in data
    ]
    if missing:
        raise TrainingConfigError(f"missing field(s) {', '.join(missing)}")
    kinds = typing.get_type_hints(cls)
    return cls(**{name: _read(name, kinds[name], value) for name, value in data.items()})


def _read(name: str, kind: Any, value: Any) -> Any:
    """Convert a YAML value to the annotated type.

    Raises:
        TrainingConfigError: the value has another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if type(None) in arguments:
        return None if value is None else _read(name, arguments[0], value)
    if dataclasses.is_dataclass(kind):
        return _build(kind, _checked(name, value, Mapping, "fields with values"))
    if origin is Literal or issubclass(origin or kind, Enum):
        choices = arguments or tuple(member.value for member in kind)
        if value is False and "no" in choices:
            value = "no"  # YAML 1.1 parses a bare `no` as false
        if isinstance(value, bool) or value not in choices:
            raise TrainingConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        return value if origin is Literal else kind(value)
    if origin is tuple:
        items = _checked(name, value, (list, tuple), "a list")
        types = arguments[:1] * len(items) if arguments[-1] is Ellipsis else arguments
        if len(items) != len(types):
            raise TrainingConfigError(f"{name} must be {len(types)} values, got {value!r}")
        return tuple(_read(f"{name}[{i}]", t, v) for i, (t, v) in enumerate(zip(types, items, strict=True)))
    if origin is Mapping:
        pairs = _checked(name, value, Mapping, "names with values")
        return {str(key): _read(f"{name}.{key}", arguments[1], item) for key, item in pairs.items()}
    if kind is float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # YAML 1.1 parses 1e-4 as text
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise TrainingConfigError(f"{name} must be a number, got {value!r}")
        return number
    if type(value) is not kind:
        raise TrainingConfigError(f"{name} must be {kind.__name__}, got {value!r}")
    return value


def _checked(name: str, value: Any, kinds: type | tuple[type, ...], expected: str) -> Any:
    if not isinstance(value, kinds):
        raise TrainingConfigError(f"{name} must be {expected}, got {value!r}")
    return value
