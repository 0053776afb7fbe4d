"""Weights of X2SAM: the released file holds what was trained, the base model the rest.

The text model was trained with low-rank updates (LoRA). They are merged into the base model's matrices in
float32, one tensor at a time, when a tensor is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xsam.config.json_files import read_json
from xsam.config.x2sam import X2SamConfig
from xsam.errors import CheckpointError
from xsam.model.x2sam import X2SamModel
from xsam.weights.checkpoint import fill_network, network_on_meta
from xsam.weights.tokenizer_files import load_tokenizer
from xsam.weights.weight_files import read_tensors, shortened

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


def is_x2sam_layout(names: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are X2SAM's rather than X-SAM's."""
    return any(name.startswith(("vlm.", "mlm_projector.")) for name in names)


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

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """Tensors before the low-rank updates are added; shapes and dtypes of a converted checkpoint."""
        return self._whole

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


def load_x2sam(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    llm_device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[X2SamModel, Any]:
    """Open a checkpoint folder of X2SAM; see `load_checkpoint`."""
    config = X2SamConfig.read(folder / "config.json")
    tokenizer = load_tokenizer(folder / "tokenizer", vocab_size=config.vlm.text_config.vocab_size)
    tensors = MergedTensors(read_tensors(folder))
    return x2sam_from(config, tensors, device=device, llm_device=llm_device, dtype=dtype), tokenizer


def x2sam_from(
    config: X2SamConfig,
    tensors: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    llm_device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> X2SamModel:
    """Build the network from tensors by name."""
    model = network_on_meta(lambda: X2SamModel(config))
    fill_network(
        model,
        tensors,
        llm_names=("vlm.model.language_model.", "vlm.lm_head."),
        fill_buffers=_fill_buffers,
        device=device,
        llm_device=llm_device,
        dtype=dtype,
    )
    return model


def _fill_buffers(model: X2SamModel) -> None:
    """Compute the buffers that checkpoints do not contain: rotary frequencies."""
    text, visual = model.vlm.model.language_model, model.vlm.model.visual
    text.rotary_emb = type(text.rotary_emb)(model.config.vlm.text_config).to(model.llm_device)
    visual.rotary_pos_emb = type(visual.rotary_pos_emb)(model.config.vlm.vision_config).to(model.device)


def is_x2sam(folder: Path) -> bool:
    """Tell whether a checkpoint folder is X2SAM's, by the sections of its `config.json`."""
    content = read_json(folder / "config.json")
    return isinstance(content, Mapping) and "vlm" in content
