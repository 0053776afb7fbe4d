"""Options of `XSam.load`, declared once for every command that loads a model.

A command lists the parameters that it takes, with these annotations, and passes them to `load_model`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from xsam.engine import XSam

MODEL_HELP = "A shipped model (tiny), or a folder from `xsam convert` (data/xsam_full)."
_PANEL = "Model"


class LlmWeights(str, Enum):
    """Storage formats of the language model's matrices."""

    AS_LOADED = "as_loaded"
    INT8 = "int8"
    BFLOAT16 = "bfloat16"


Model = Annotated[str, typer.Option(help=MODEL_HELP, rich_help_panel=_PANEL)]
Device = Annotated[
    str, typer.Option(help='"auto", "cpu", "cuda", "cuda:1", …: --device cuda:1.', rich_help_panel=_PANEL)
]
LlmDevice = Annotated[
    str | None,
    typer.Option(
        help="Device of the language model, if not --device: --llm-device cpu.", rich_help_panel=_PANEL
    ),
]
LlmWeightsFormat = Annotated[
    LlmWeights,
    typer.Option(
        "--llm-weights",
        help="int8: a quarter of float32's memory, torchao needed, slower on a CPU. bfloat16: half, faster "
        "on a processor that multiplies it: --llm-weights bfloat16.",
        rich_help_panel=_PANEL,
    ),
]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compiled",
        help="Compile the encoders: takes minutes and a C++ compiler, then saves a few percent: --compiled.",
        rich_help_panel=_PANEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads; by default as many as are free.", rich_help_panel=_PANEL),
]
FrameCacheMib = Annotated[
    float | None,
    typer.Option(
        "--frame-cache-mib",
        min=0,
        help="Memory for features of earlier images, in MiB; 2048 by default, 0 disables the cache.",
        rich_help_panel=_PANEL,
    ),
]


def load_model(
    model: str,
    *,
    device: str = "auto",
    llm_device: str | None = None,
    llm_weights: LlmWeights = LlmWeights.AS_LOADED,
    compiled: bool = False,
    threads: int | None = None,
    frame_cache_mib: float | None = None,
) -> XSam:
    """Load a model with the options of a command line; see `XSam.load`."""
    from xsam.engine import DEFAULT_FRAME_CACHE_MIB, XSam

    return XSam.load(
        model,
        device=device,
        llm_device=llm_device,
        llm_weights=llm_weights.value,
        compiled=compiled,
        threads=threads,
        frame_cache_mib=DEFAULT_FRAME_CACHE_MIB if frame_cache_mib is None else frame_cache_mib,
    )
