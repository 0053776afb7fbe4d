"""Weights of X2SAM: the released file holds what was trained, the base model the rest.

The text model was trained with low-rank updates (LoRA). They are merged into the base model's matrices in
float32, one tensor at a time, when a tensor is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from xsam.config.x2sam import X2SamConfig
from xsam.errors import CheckpointError
from xsam.model.x2sam import X2SamModel
from xsam.weights.checkpoint import load_weights
from xsam.weights.weight_files import one_line, read_tensors, shortened

LORA_SCALE = 2.0  # alpha / r of the release, which the file does not state

# Constants and unused tensors that files written before June 2026 have.
_UNUSED = re.compile(
    r"segmentor\.pixel_decoder\.encoder\.layers\.\d+\.self_attn\.n_points_scale"
    r"|segmentor\.class_predictor\.cls_bias"
)
_LORA = re.compile(r"(?P<matrix>.+)\.lora_(?P<factor>[AB])\.default\.weight")


def module_name(name: str) -> str:
    """Translate a tensor's name from the released file, or from the base model's, to `X2SamModel`."""
    if name.startswith("vlm.base_model.model."):
        name = f"vlm.{name.removeprefix('vlm.base_model.model.')}"
    elif name.startswith(("model.language_model.", "model.visual.", "lm_head.")):
        name = f"vlm.{name}"
    elif name.startswith(("language_model.", "visual.")):  # "model." is removed if all names have it
        name = f"vlm.model.{name}"
    return name.replace(".base_layer.", ".")


def is_lora_layout(names: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are those of the released file, which needs the base model."""
    return any(_LORA.fullmatch(name) for name in names)


class MergedTensors(Mapping[str, Tensor]):
    """Tensors of `X2SamModel` by name, merged from a trained file and its base model on access.

    A merged matrix is float32, whatever the files hold; every other tensor is as in its file.
    """

    def __init__(
        self,
        trained: Mapping[str, Tensor],
        base: Mapping[str, Tensor] | None = None,
        *,
        scale: float = LORA_SCALE,
    ) -> None:
        """Check that trained tensors and base fit together.

        Args:
            trained: the released file, or a file with every tensor.
            base: the base model; needed when `trained` has low-rank updates.
            scale: alpha / r of the updates.

        Raises:
            CheckpointError: a low-rank update lacks its other factor, its base matrix, or does not fit it; or
                two tensors have one name.
        """
        self._scale = scale
        self._factors: dict[str, dict[str, Tensor]] = {}
        self._whole: dict[str, Tensor] = {}
        replaced: dict[str, Tensor] = {}
        for name, tensor in trained.items():
            if _UNUSED.fullmatch(name):
                continue
            update = _LORA.fullmatch(module_name(name))
            if update:
                matrix = f"{update['matrix']}.weight"
                self._factors.setdefault(matrix, {})[update["factor"]] = tensor
            elif module_name(name) in replaced:
                raise CheckpointError(f"two tensors of the file are both {module_name(name)!r}")
            else:
                replaced[module_name(name)] = tensor
        self._whole = {module_name(name): tensor for name, tensor in (base or {}).items()}
        self._whole.update(replaced)
        self._check_factors(has_base=base is not None)

    def _check_factors(self, *, has_base: bool) -> None:
        problems = []
        for name, factors in self._factors.items():
            if len(factors) != 2:
                problems.append(f"{name} has only lora_{next(iter(factors))}")
            elif name not in self._whole:
                problems.append(f"{name} has no base matrix")
            elif self._whole[name].shape != (len(factors["B"]), factors["A"].shape[1]) or (
                factors["B"].shape[1] != len(factors["A"])
            ):
                problems.append(
                    f"{name} {tuple(self._whole[name].shape)} with {tuple(factors['B'].shape)} · "
                    f"{tuple(factors['A'].shape)}"
                )
        if problems:
            raise CheckpointError(
                f"low-rank updates do not fit the base model; {len(problems)}: {shortened(problems)}",
                hint=""
                if has_base
                else "give the folder of the base model (Qwen3-VL-4B-Instruct) with --base",
            )

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._whole[name]
        factors = self._factors.get(name)
        if factors is None:
            return tensor
        update = factors["B"].float() @ factors["A"].float()
        return torch.add(tensor.float(), update, alpha=self._scale)

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


def build_x2sam_on_meta(config: X2SamConfig) -> X2SamModel:
    """Build the network without memory for its weights.

    Raises:
        CheckpointError: its settings do not fit together.
    """
    try:
        with torch.device("meta"):
            return X2SamModel(config)
    except Exception as error:  # what the classes of transformers and PyTorch do not accept
        raise CheckpointError(
            f"cannot build the network of this config.json: {type(error).__name__}: {one_line(error)}",
            hint="take the config.json that came with the weights",
        ) from error


def load_x2sam(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> X2SamModel:
    """Open the network of a checkpoint folder.

    Raises:
        CheckpointError: files are missing, damaged, or do not belong together.
    """
    return x2sam_from(
        X2SamConfig.read(folder / "config.json"),
        MergedTensors(read_tensors(folder)),
        device=device,
        dtype=dtype,
    )


def x2sam_from(
    config: X2SamConfig,
    tensors: Mapping[str, Tensor],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> X2SamModel:
    """Build the network from tensors by name; see `load_x2sam`."""
    model = build_x2sam_on_meta(config)
    target = torch.device(device)
    load_weights(model, tensors, dtype=dtype, device_for=lambda _: target)
    fill_buffers(model)
    return model.eval()


def fill_buffers(model: X2SamModel) -> None:
    """Compute the buffers that checkpoints do not contain: rotary frequencies."""
    text, visual = model.vlm.model.language_model, model.vlm.model.visual
    text.rotary_emb = type(text.rotary_emb)(model.config.vlm.text_config).to(model.device)
    visual.rotary_pos_emb = type(visual.rotary_pos_emb)(model.config.vlm.vision_config).to(model.device)
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if left:
        raise CheckpointError(f"buffers of the model are still empty: {shortened(left)}")
