"""Checkpoint folders, the published layouts, and strict loading.

A folder contains `config.json`, weights and `tokenizer/`. Weights are `model.safetensors`, shards with
`model.safetensors.index.json`, or `pytorch_model.bin` (read with `weights_only=True`). Nothing else is
unpickled, and nothing is dropped silently: every tensor of the file must be used, and every tensor of the
model filled.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xsam.config import ModelConfig, XSamConfig
from xsam.errors import CheckpointError, InvalidOptionError
from xsam.model.precision import computes_natively, store_weights_as
from xsam.model.xsam import XSamModel
from xsam.weights.files import flush, set_card_aside
from xsam.weights.tokenizer_files import load_tokenizer
from xsam.weights.weight_files import find_weights, one_line, read_tensors, shortened

__all__ = [
    "build_on_meta",
    "find_weights",
    "is_released_layout",
    "load_checkpoint",
    "load_weights",
    "module_name",
    "read_tensors",
    "resolve_model",
    "save_checkpoint",
    "shipped_models",
    "write_folder",
]

# Prefix in a file → prefix in the model. The first two rows are for the released (AAAI) layout, the third for
# a level that both layouts have and the stock SigLIP class does not.
_PREFIXES: tuple[tuple[str, str], ...] = (
    ("visual_encoder.", "vision_encoder."),
    ("segmentor.logit_scale", "segmentor.class_predictor.logit_scale"),
    ("vision_encoder.vision_model.", "vision_encoder."),
)
_Network = TypeVar("_Network", bound=nn.Module)
_ASSETS = Path(__file__).parents[1] / "assets"


def resolve_model(model: str | Path) -> tuple[Path, str]:
    """Return the folder and the identifier of a model given by name ("tiny") or by path.

    Raises:
        InvalidOptionError: `model` is neither text nor a path.
        CheckpointError: there is neither a shipped model of that name nor such a folder.
    """
    if not isinstance(model, (str, Path)):
        raise InvalidOptionError(f"model must be a name or a path, got {model!r:.80}")
    shipped = shipped_models()
    if isinstance(model, str) and model in shipped:
        return shipped[model], model
    hint = f"give a folder written by `xsam convert`, or a shipped model ({', '.join(shipped) or 'none'})"
    try:
        folder = Path(model).expanduser()
        is_folder, is_file = bool(os.fspath(model)) and folder.is_dir(), folder.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: the home of an unknown user
        raise CheckpointError(f"no model {str(model)!r:.200}: {error}", hint=hint) from error
    if is_file:
        raise CheckpointError(
            f"{folder} is a file; a model is a folder with config.json, weights and tokenizer",
            hint=f"turn published weights into one: xsam convert {shlex.quote(str(folder))} OUT",
        )
    if not is_folder:
        raise CheckpointError(f"no model {str(model)!r:.200}", hint=hint)
    return folder, folder.resolve().name


def shipped_models() -> dict[str, Path]:
    """Return name → folder of the models that come with the package."""
    return {p.name: p for p in sorted(_ASSETS.iterdir()) if p.is_dir()} if _ASSETS.is_dir() else {}


def module_name(name: str) -> str:
    """Translate a tensor's name from either published layout to `XSamModel`."""
    for old, new in _PREFIXES:
        if name.startswith(old):
            name = new + name[len(old) :]
    return name


def is_released_layout(names: Sequence[str]) -> bool:
    """Tell whether tensor names are those of the released (AAAI) checkpoint."""
    return any(name.startswith("visual_encoder.") or name == "segmentor.logit_scale" for name in names)


def load_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    device_for: Callable[[str], torch.device] | None = None,
) -> None:
    """Load tensors of either layout into a model, all or nothing.

    Also works on the meta device: the model's tensors are replaced, not copied into. A tensor that already
    has the requested dtype and device becomes the parameter as it is, still mapped from its file.

    Args:
        model: the model to fill.
        tensors: name in either layout → tensor.
        dtype: of the floating-point parameters; None = as in the file.
        device_for: name of a tensor of the model → its device; None = that of the given tensor.

    Raises:
        CheckpointError: tensors are missing, extra or of another shape (the first ten of each are listed, and
            all counted), or a tensor contains NaN or infinity.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        target = module_name(name)
        if target in renamed:
            raise CheckpointError(
                f"two tensors of the file are both {target!r}", hint="the file mixes two layouts"
            )
        renamed[target] = tensor
    tied = _tied_names(model)
    for first, second in tied:
        _fill_tied(renamed, first, second)
    expected = model.state_dict()
    missing = sorted(expected.keys() - renamed.keys())
    extra = sorted(renamed.keys() - expected.keys())
    wrong = sorted(
        f"{name} {tuple(renamed[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in renamed and renamed[name].shape != tensor.shape
    )
    problems = [
        f"{len(names)} {problem}: {shortened(names)}"
        for problem, names in (("missing", missing), ("extra", extra), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"the weights do not match the model; {'; '.join(problems)}",
            hint=_incomplete(expected, renamed)
            or "config.json and weights must come from the same model; if both do, the file is incomplete",
        )
    broken = [name for name, t in renamed.items() if t.is_floating_point() and not _all_finite(t)]
    if broken:
        raise CheckpointError(
            f"{len(broken)} tensor(s) contain NaN or infinity: {shortened(broken)}",
            hint="download the file again",
        )
    converted = {
        name: t.to(
            device=device_for(name) if device_for else t.device,
            dtype=dtype if dtype and t.is_floating_point() else t.dtype,
        )
        for name, t in renamed.items()
    }
    if dtype is not None and torch.finfo(dtype).max < torch.finfo(torch.bfloat16).max:
        broken = [n for n, t in converted.items() if t.is_floating_point() and not _all_finite(t)]
        if broken:
            raise CheckpointError(
                f"{len(broken)} tensor(s) have values too large for {str(dtype).removeprefix('torch.')}: "
                f"{shortened(broken)}",
                hint="use bfloat16 or float32",
            )
    for first, second in tied:
        converted[second] = converted[first]
    model.load_state_dict(converted, strict=True, assign=True)
    for first, second in tied:
        owner, _, attribute = second.rpartition(".")
        setattr(model.get_submodule(owner), attribute, model.get_parameter(first))


def _tied_names(model: nn.Module) -> list[tuple[str, str]]:
    """List pairs of names of the same parameter."""
    names: dict[int, str] = {}
    pairs = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first != name:
            pairs.append((first, name))
    return pairs


def _fill_tied(tensors: dict[str, Tensor], first: str, second: str) -> None:
    """Add the name that a file left out of a tied pair.

    Raises:
        CheckpointError: the file has both, and they differ.
    """
    if first in tensors and second in tensors:
        if not torch.equal(tensors[first], tensors[second]):
            raise CheckpointError(
                f"{first} and {second} differ, but config.json says that they are one tensor",
                hint="set llm.tie_word_embeddings to false, or take the weights that belong to config.json",
            )
    elif first in tensors or second in tensors:
        tensors.setdefault(first, tensors.get(second, tensors.get(first)))  # type: ignore[arg-type]
        tensors.setdefault(second, tensors[first])


def _incomplete(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Explain weights of which whole blocks are missing; empty if none is."""
    blocks = {name.partition(".")[0] for name in expected}
    present = {name.partition(".")[0] for name in given} & blocks
    missing = sorted(blocks - present)
    if not missing:
        return ""
    if not present:
        return f"none of the tensors is X-SAM's: the names should begin with {', '.join(sorted(blocks))}"
    return (
        f"the file has nothing of {', '.join(missing)}: it is from an early stage of training, or holds only "
        "what was trained; the last stage's weights have all blocks"
    )


def _all_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor has no NaN or infinity; 30 times faster than `isfinite` on bfloat16."""
    if tensor.numel() == 0:
        return True
    low, high = tensor.aminmax()  # NaN if an element is
    return bool(torch.isfinite(low) & torch.isfinite(high))


def load_checkpoint(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    llm_device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[XSamModel, Any]:
    """Open a checkpoint folder.

    Tensors go straight from the mapped file to their device and dtype. A CPU that cannot compute in `dtype`
    stores matrices in it and computes in float32 (see `xsam.model.precision`).

    Args:
        folder: with `config.json`, weights and `tokenizer/`.
        device: of the model.
        llm_device: of the language model; None = `device`.
        dtype: of the floating-point parameters.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        CheckpointError: files are missing, damaged, or do not belong together.
    """
    config = XSamConfig.read(folder / "config.json")
    tokenizer = load_tokenizer(folder / "tokenizer", vocab_size=config.llm.vocab_size)
    model = build_on_meta(config)
    fill_network(
        model,
        read_tensors(folder),
        llm_names=("llm.",),
        fill_buffers=_fill_buffers,
        device=device,
        llm_device=llm_device,
        dtype=dtype,
    )
    return model, tokenizer


def fill_network(
    model: _Network,
    tensors: Mapping[str, Tensor],
    *,
    llm_names: tuple[str, ...],
    fill_buffers: Callable[[_Network], None],
    device: torch.device | str = "cpu",
    llm_device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Give a network on the meta device its weights and buffers, and set it to evaluation mode.

    Args:
        model: the network; its `llm.model.embed_tokens` is the vocabulary.
        tensors: name → tensor.
        llm_names: how the names of the language model's tensors begin.
        fill_buffers: computes what checkpoints do not contain.
        device: of the network.
        llm_device: of the language model; None = `device`.
        dtype: of the floating-point parameters.

    Raises:
        CheckpointError: the tensors do not fit the network.
    """
    device = torch.device(device)
    llm_device = device if llm_device is None else torch.device(llm_device)
    load_weights(
        model,
        tensors,
        dtype=dtype,
        device_for=lambda name: llm_device if name.startswith(llm_names) else device,
    )
    fill_buffers(model)
    if left := [name for name, buffer in model.named_buffers() if buffer.is_meta]:
        raise CheckpointError(f"buffers of the model are still empty: {shortened(left)}")
    if not (computes_natively(device, dtype) and computes_natively(llm_device, dtype)):
        network: Any = model
        store_weights_as(model, network.llm.model.embed_tokens, dtype)
    model.eval()


def build_on_meta(config: XSamConfig) -> XSamModel:
    """Build X-SAM's network without memory for its weights; see `network_on_meta`."""
    return network_on_meta(lambda: XSamModel(config))


def network_on_meta(build: Callable[[], _Network]) -> _Network:
    """Build a network without memory for its weights.

    Raises:
        CheckpointError: its settings do not fit together.
    """
    try:
        with torch.device("meta"), _WithoutRandomNumbers():
            return build()
    except Exception as error:  # what the classes of transformers and PyTorch do not accept
        raise CheckpointError(
            f"cannot build the network of this config.json: {type(error).__name__}: {one_line(error)}",
            hint="take the config.json that came with the weights",
        ) from error


class _WithoutRandomNumbers(TorchFunctionMode):
    """Leaves out initializers, which have nothing to fill on the meta device.

    There, PyTorch's random numbers are Python, and the first imports its compiler: two seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _fill_buffers(model: XSamModel) -> None:
    """Place the buffers that checkpoints do not contain: rotary frequencies."""
    model.llm.model.rotary_emb.to(model.llm_device)


def save_checkpoint(
    model: XSamModel, tokenizer: Any, folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write `config.json`, `model.safetensors` and `tokenizer/`."""
    write_folder(model.state_dict(), model.config, tokenizer, folder, dtype=dtype)


def write_folder(
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: Any,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint folder; the weights appear once they are complete.

    Args:
        tensors: by name in the network.
        config: of the network.
        tokenizer: of the language model.
        folder: to write.
        dtype: of the floating-point tensors; None = as they are.
    """
    own = {
        name: (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous().clone()
        for name, value in tensors.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    config.write(folder / "config.json")
    tokenizer.save_pretrained(folder / "tokenizer")
    unfinished = folder / "model.safetensors.part"
    save_file(own, unfinished, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", unfinished)  # safetensors makes it readable by its owner only
    flush(unfinished)
    set_card_aside(folder)
    unfinished.replace(folder / "model.safetensors")
