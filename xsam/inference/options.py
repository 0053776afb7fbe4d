"""Options of `XSam.load`: one table of what is allowed, checked before anything is read from a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from xsam.config.fields import Choice, Field, Flag, Number, Whole, check_section
from xsam.errors import InvalidOptionError
from xsam.inference.acceleration import require_torchao
from xsam.model.precision import computes_natively

DEFAULT_FRAME_CACHE_MIB = 2048


@dataclass(frozen=True, slots=True)
class Device:
    """The name of a device that this machine has, or "auto"."""

    automatic: bool = False
    optional: bool = False

    def check(self, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if self.automatic and value == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        names = '"auto", "cpu", "cuda", "cuda:1", …' if self.automatic else '"cpu", "cuda", "cuda:1", …'
        if not isinstance(value, (str, torch.device)):
            raise ValueError(names)
        try:
            device = torch.device(value)
        except RuntimeError:
            raise ValueError(names) from None
        if device.type == "cpu" and not device.index:
            return device
        if device.type != "cuda":
            raise ValueError(names)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            why = (
                "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no GPU"
            )
            usable = '"cpu" or "auto"' if self.automatic else '"cpu"'
            raise ValueError(f"{usable} on this machine: {why}")
        if (device.index or 0) >= count:
            raise ValueError(f"cuda:0 to cuda:{count - 1} on this machine")
        return device


OPTIONS: Mapping[str, Field] = {
    "device": Device(automatic=True),
    "dtype": Choice("auto", "float32", "bfloat16", "float16"),
    "llm_device": Device(optional=True),
    "llm_weights": Choice("as_loaded", "int8", "bfloat16"),
    "compiled": Flag(),
    "threads": Whole(1, 4096, optional=True),
    "frame_cache_mib": Number(0.0, 1e9),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Checked options of `XSam.load`."""

    device: torch.device
    dtype: torch.dtype
    llm_device: torch.device | None
    llm_weights: Literal["as_loaded", "int8", "bfloat16"]
    compiled: bool
    threads: int | None
    frame_cache_mib: float

    @classmethod
    def check(cls, **options: Any) -> LoadOptions:
        """Check all options.

        Raises:
            InvalidOptionError: the message names every option that is wrong, its value, and what is allowed.
            ModelError: an option needs a package that is not installed.
        """
        values = check_options(options)
        if values["llm_weights"] == "int8":
            require_torchao()
        text_device = values["llm_device"] or values["device"]
        if values["llm_weights"] == "bfloat16" and not computes_natively(text_device, torch.bfloat16):
            raise InvalidOptionError(
                'llm_weights must not be "bfloat16" on this processor, which has no instructions for it: '
                'products would take several times longer than those of "as_loaded"'
            )
        if values["dtype"] == "auto":
            values["dtype"] = "bfloat16" if values["device"].type == "cuda" else "float32"
        return cls(**{**values, "dtype": getattr(torch, values["dtype"])})


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return some of the options of `XSam.load`, checked.

    Raises:
        InvalidOptionError: an option is unknown or has a value that is not allowed.
    """
    problems: list[str] = []
    values = check_section("", options, OPTIONS, problems)
    if problems:
        raise InvalidOptionError("; ".join(problems))
    return values
