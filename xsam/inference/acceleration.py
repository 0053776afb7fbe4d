"""Options that trade accuracy or start-up time for speed or memory: narrow weights, compilation, threads.

And how to tell that memory ran out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from xsam.errors import ModelError
from xsam.model.precision import HalfLinear
from xsam.model.x2sam import X2SamModel
from xsam.model.xsam import XSamModel


def require_torchao() -> Any:
    """Import the module `torchao.quantization`.

    Raises:
        ModelError: torchao is not installed.
    """
    try:
        import torchao.quantization  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ModelError(
            "eight-bit weights need torchao, which is not installed", hint="pip install 'torchao>=0.18'"
        ) from error
    return torchao.quantization


def quantize_language_model(model: XSamModel | X2SamModel) -> None:
    """Quantize the matrices of the language model's layers to eight bits, one scale per row, in place.

    Takes a quarter of the memory of float32, half of bfloat16. On a CPU it is slower than float32; outputs
    stay within about half a percent of the exact layer.

    Raises:
        ModelError: torchao is not installed.
    """
    quantization = require_torchao()
    for layer in model.llm.model.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = nn.Linear  # a narrowly stored one is widened before it is quantized
                module.weight = nn.Parameter(module.weight.data.to(model.dtype), requires_grad=False)
        quantization.quantize_(layer, quantization.Int8WeightOnlyConfig())


def multiply_in_bfloat16(model: XSamModel | X2SamModel) -> None:
    """Store and multiply the matrices of the language model's layers in bfloat16, in place.

    Takes half of the memory of float32. Everything between the products keeps the type of the model.
    """
    for layer in model.llm.model.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = HalfLinear
                module.weight = nn.Parameter(module.weight.data.bfloat16(), requires_grad=False)
                if module.bias is not None:
                    module.bias = nn.Parameter(module.bias.data.bfloat16(), requires_grad=False)


def compile_fixed_shapes(model: XSamModel | X2SamModel) -> None:
    """Compile what has fixed shapes for every frame (encoders, connector, pixel decoder), in place.

    The compiler runs on the first frame. CUDA graphs stay off: the next frame would overwrite their outputs,
    which the frame cache keeps.
    """
    name = "encode_frames" if isinstance(model, X2SamModel) else "encode_image"
    setattr(model, name, torch.compile(getattr(model, name), dynamic=False))


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use this many threads inside the block; None leaves its own number.

    The number is process-wide, so it is restored afterwards.
    """
    if count is None or count == torch.get_num_threads():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# PyTorch has a type of its own for the GPU's memory only; these are texts of plain RuntimeErrors.
_OUT_OF_MEMORY = (
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # DefaultCPUAllocator on Windows
    "out of memory",  # CUDA driver and libraries
    "std::bad_alloc",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "insufficient memory",  # OpenCV
    "failed to allocate",  # OpenCV
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of PyTorch, NumPy or OpenCV says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, Exception) and any(sign in text for sign in _OUT_OF_MEMORY)
