"""NaN and infinity are failures, not results: detect them after each stage, and find where they began."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xsam.errors import ModelError, XSamError


class NotFiniteError(Exception):
    """A stage of the network gave NaN or infinity; never leaves `xsam.inference`."""


class _FoundError(Exception):
    """The search has found its module."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether no tensor has NaN or infinity; waits for the device once."""
    return finite_groups([tensors])[0]


def finite_groups(groups: Iterable[Iterable[Tensor]]) -> list[bool]:
    """Tell for each group of tensors whether none has NaN or infinity; waits for the device once."""
    sizes: list[int] = []
    extremes: list[Tensor] = []
    for group in groups:
        before = len(extremes)
        extremes += [
            extreme.float()
            for tensor in group
            if tensor.numel() and tensor.is_floating_point()
            for extreme in tensor.aminmax()  # NaN if an element is; much faster than `isfinite`
        ]
        sizes.append(len(extremes) - before)
    if not extremes:
        return [True] * len(sizes)
    device = extremes[0].device
    finite = iter(torch.isfinite(torch.stack([e.to(device) for e in extremes])).tolist())
    return [all(list(itertools.islice(finite, size))) for size in sizes]


def not_finite_error(model: nn.Module, module: nn.Module | None) -> ModelError:
    """Return the error for a network whose output is not finite.

    Args:
        model: the network.
        module: its first block whose output is not finite, from `first_not_finite`.
    """
    if module is None:
        return ModelError(
            "the network's output is not finite (NaN or infinity)",
            hint="load the model with dtype float32; if it fails there, too, the weights are damaged",
        )
    name = next(name for name, candidate in model.named_modules() if candidate is module)
    parameters = dict(module.named_parameters(recurse=False))
    broken = [key for key, parameter in parameters.items() if not all_finite([parameter])]
    if broken:
        return ModelError(
            f"the weights of {name} are not finite (NaN or infinity in {', '.join(broken)})",
            hint="load the model again; if that does not help, the file is damaged: compare its sha256",
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    hint = (
        "load the model with dtype float32 or bfloat16: float16 overflows above 65,504"
        if dtype == torch.float16
        else "the weights or config.json are damaged or do not belong together: compare their sha256"
    )
    return ModelError(
        f"the output of {name} is not finite (NaN or infinity); it is the first block", hint=hint
    )


def first_not_finite(model: nn.Module, run: Callable[[], object]) -> nn.Module | None:
    """Run again with a look at every module's output; return the first whose output is not finite.

    Args:
        model: the network.
        run: repeats the computation that failed.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module, _: object, output: object) -> None:
        if not all_finite(_tensors(output)):
            found.append(module)
            raise _FoundError

    hooks = [module.register_forward_hook(look) for name, module in model.named_modules() if name]
    try:
        run()
    except (_FoundError, NotFiniteError, XSamError, RuntimeError, IndexError, ValueError):  # or no time left
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from _tensors(item)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
