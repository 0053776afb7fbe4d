"""`config.json` is input: every setting is checked before a tensor is made, and nothing else is read."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.golden import GOLDEN_QWEN3, GOLDEN_X2SAM
from tests.unit.config.mutations import mutated
from xsam import CheckpointError
from xsam.config import X2SamConfig, XSamConfig, full_config, tiny_config
from xsam.config.json_files import MAX_BYTES, read_json

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "data" / "a" / "config.json"
TINY = ROOT / "xsam" / "assets" / "tiny" / "config.json"
QWEN3 = GOLDEN_QWEN3 / "e" / "config.json"
X2SAM = GOLDEN_X2SAM / "x2a" / "config.json"


def _golden() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(GOLDEN.read_text())
    return data


def _refusal(data: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        XSamConfig.from_dict(data)  # type: ignore[arg-type]
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def _class_of(path: Path) -> type[XSamConfig | X2SamConfig]:
    return X2SamConfig if path == X2SAM else XSamConfig


@pytest.mark.parametrize("path", [GOLDEN, GOLDEN.parents[1] / "c" / "config.json", TINY, QWEN3, X2SAM])
def test_files_are_read_and_written_back(path: Path) -> None:
    config = _class_of(path).read(path)
    assert type(config).from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("config", [full_config(), full_config(released=False), tiny_config(vocab_size=234)])
def test_our_own_sizes_fit_the_schema(config: XSamConfig) -> None:
    assert XSamConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("xsam", "reject_bellow", 0.1, "xsam.reject_bellow is unknown (did you mean reject_below?)"),
        ("xsam", "reject_below", 9, "xsam.reject_below must be a number from 0 to 1, got 9"),
        ("xsam", "reject_below", float("nan"), "xsam.reject_below must be a number from 0 to 1, got nan"),
        ("xsam", "reject_below", True, "xsam.reject_below must be a number from 0 to 1, got true"),
        ("xsam", "vision_resample", "lanczos", "must be one of 'bilinear', 'bicubic', got 'lanczos'"),
        ("xsam", "extra_select_layers", [4, 6, 99], "names a layer that sam does not have"),
        ("xsam", "visual_select_layer", -40, "is before the first layer of"),
        ("xsam", "connector_type", "mlp", "xsam.connector_type must be 'conv', got 'mlp'"),
        ("xsam", "special_tokens", ["<SEG>"], "xsam.special_tokens must be ['<SEG>', '<p>', '</p>']"),
        ("xsam", "one_mask_per_object", "yes", "must be true or false, got 'yes'"),
        ("llm", "hidden_size", 128.0, "llm.hidden_size must be an integer from 1 to 65536, got 128.0"),
        ("llm", "hidden_act", "foo", "llm.hidden_act must be one of 'silu'"),
        ("llm", "num_hidden_layers", 10**9, "llm.num_hidden_layers must be an integer from 1 to 256"),
        ("llm", "num_hidden_layerz", 2, "llm.num_hidden_layerz is unknown (did you mean num_hidden_layers?)"),
        ("llm", "rms_norm_eps", float("nan"), "llm.rms_norm_eps must be a number from 1e-12 to 0.1, got nan"),
        ("llm", "num_attention_heads", 36, "llm.hidden_size must be a multiple of the heads"),
        ("llm", "rope_scaling", {"type": "longrope"}, "llm.rope_scaling must be null, got an object"),
        ("llm", "rope_parameters", {"rope_type": "yarn"}, "rope_type must be 'default', got 'yarn'"),
        ("llm", "max_position_embeddings", 16, "has no room for an image"),
        ("llm", "attn_implementation", "eager", "llm.attn_implementation is unknown"),
        ("mask2former", "backbone", "resnet50", "mask2former.backbone must be null, got 'resnet50'"),
        ("mask2former", "use_timm_backbone", True, "must be false, got true"),
        ("mask2former", "feature_size", 33, "must be a multiple of 32"),
        ("sam", "vision_config", [], "sam must be an object, got []"),
        ("vision_encoder", "image_size", [128, 128], "must be an integer from 8 to 4096, got [128, 128]"),
    ],
)
def test_wrong_settings_are_named(section: str, key: str, value: object, message: str) -> None:
    data = _golden()
    data[section][key] = value
    assert message in _refusal(data)


def test_settings_of_the_sampler() -> None:
    for key, value, message in (
        ("pooling_mode", "min", "xsam.sampler.pooling_mode must be one of 'mean', 'max', got 'min'"),
        (
            "num_sample_points",
            9,
            "xsam.sampler.num_sample_points is unknown (did you mean num_sample_point?)",
        ),
        ("pooling_kernel_size", 300, "needs a kernel of at most num_sample_point"),
    ):
        data = _golden()
        data["xsam"]["sampler"][key] = value
        assert message in _refusal(data)


def test_max_pooling_needs_its_size() -> None:
    """Left out, the network gave one token where the prompt had room for 256."""
    data = _golden()
    data["xsam"]["sampler"] = {"pooling_mode": "max", "pooling_kernel_size": None}
    assert "with max pooling has an output size, and no kernel" in _refusal(data)
    data["xsam"]["sampler"]["pooling_output_size"] = 1
    assert XSamConfig.from_dict(data).sampler.tokens_per_region == 1


def test_all_problems_are_reported_at_once() -> None:
    data = _golden()
    data["xsam"] |= {"reject_bellow": 1, "logit_clamp": -5}
    data["llm"]["vocab_size"] = "many"
    data["lmm"] = {}
    message = _refusal(data)
    parts = ("reject_bellow", "logit_clamp", "vocab_size", "section lmm is unknown (did you mean llm?)")
    assert all(part in message for part in parts)


def test_what_has_no_effect_is_not_passed_on() -> None:
    """An attribute such as `output_attentions` changed what a class of transformers returns."""
    data = _golden()
    data["llm"] |= {"output_attentions": True, "dtype": "float8", "id2label": 7, "use_cache": "perhaps"}
    data["mask2former"]["backbone_config"] = {"model_type": "timm_backbone", "backbone": "resnet50"}
    assert XSamConfig.from_dict(data).to_dict() == XSamConfig.from_dict(_golden()).to_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested more than 16 levels deep"),
        ("[" * 50 + "]" * 50, "nested more than 16 levels deep"),
        ('{"a": NaN}', "NaN is not a number in JSON"),
        ('{"a": -Infinity}', "-Infinity is not a number in JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ("{" + " " * MAX_BYTES + "}", "more than 1 MiB"),
        ("\xff", "cannot read"),
        ("", "cannot read"),
        ("9" * 5000, "cannot read"),
    ],
)
def test_files_that_are_no_plain_json(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("latin-1"))
    for read in (XSamConfig.read, read_json):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert message in caught.value.message


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="cannot read"):
        XSamConfig.read(tmp_path / "config.json")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Refuse every connection; the list of attempts."""
    attempts: list[object] = []

    def refuse(_: socket.socket, address: object) -> None:
        attempts.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: refuse(None, a))  # type: ignore[arg-type]
    return attempts


@pytest.mark.parametrize("base", [GOLDEN, TINY, QWEN3, X2SAM])
@pytest.mark.slow
def test_mutations_are_read_or_refused(tmp_path: Path, no_network: list[object], base: Path) -> None:
    """Of 1,874 mutations 957 once were raw exceptions, 5 hung, and one connected to the hub."""
    original = json.loads(base.read_text())
    path = tmp_path / "config.json"
    refused = 0
    for seed in range(250):
        data, done = mutated(original, seed)
        try:
            path.write_text(json.dumps(data))
        except RecursionError:  # too deep to write as well
            continue

        def read() -> bool:
            try:
                _class_of(base).read(path)
            except CheckpointError:
                return True
            return False

        refused += _within_deadline(read, f"seed {seed}: {done}")
    assert refused > 50
    assert not no_network


def _within_deadline(call: Callable[[], bool], what: str, deadline_s: float = 10.0) -> bool:
    """Run a call on a thread; the test fails, with the name of the case, if it raises or does not end."""
    outcome: list[bool | BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    started = time.monotonic()
    thread.start()
    thread.join(deadline_s)
    assert outcome, f"{what}: still running after {time.monotonic() - started:.0f} s"
    assert isinstance(outcome[0], bool), f"{what}: {outcome[0]!r}"
    return outcome[0]


# -- the other language model and the other family


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("llm", "model_type"), "llama", "llm.model_type must be one of phi3, qwen3, got 'llama'"),
        (("llm", "use_sliding_window"), True, "llm.use_sliding_window must be false"),
        (("llm", "layer_types"), ["sliding_attention"] * 3, "llm.layer_types must be a list"),
        (("llm", "resid_pdrop"), 0.1, "llm.resid_pdrop is unknown"),
    ],
)
def test_settings_of_qwen3_are_named(keys: tuple[str, str], value: object, message: str) -> None:
    data = json.loads(QWEN3.read_text())
    data[keys[0]][keys[1]] = value
    with pytest.raises(CheckpointError) as caught:
        XSamConfig.from_dict(data)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("sam2", "num_maskmem"), 0, "sam2.num_maskmem must be an integer from 1 to 64, got 0"),
        (("sam2", "memory_attention_rope_theta"), 5000, "sam2.memory_attention_rope_theta must be 10000"),
        (("sam2", "use_class_guidance"), False, "sam2.use_class_guidance must be true"),
        (("sam2", "num_maskmen"), 5, "sam2.num_maskmen is unknown (did you mean num_maskmem?)"),
        (("mask2former", "use_text_cross_attn"), False, "mask2former.use_text_cross_attn must be true"),
        (("x2sam", "cond_type"), "cls", "x2sam.cond_type must be 'phrase'"),
        (("sam2", "vision_config", "backbone_config", "image_size"), [64, 32], "the image must be square"),
        (("sam2", "vision_config", "backbone_config", "global_attention_blocks"), [1], "block that pools"),
        (
            ("vlm", "vision_config", "out_hidden_size"),
            64,
            "out_hidden_size must be the width of the text model",
        ),
        (("vlm", "vision_config", "deepstack_visual_indexes"), [0, 9], "names a block that does not exist"),
        (("processors", "sam2", "resample"), 3, "processors.sam2.resample must be 2, got 3"),
    ],
)
def test_settings_of_x2sam_are_named(keys: tuple[str, ...], value: object, message: str) -> None:
    data = json.loads(X2SAM.read_text())
    node = data
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    with pytest.raises(CheckpointError) as caught:
        X2SamConfig.from_dict(data)
    assert message in caught.value.message


def test_the_processors_file_decides_how_the_image_enters_the_square() -> None:
    data = json.loads(X2SAM.read_text())
    assert X2SamConfig.from_dict(data).square.scaled_hw((480, 640)) == (64, 64)
    data["processors"]["sam2"]["size"] = {"longest_edge": 64}
    assert X2SamConfig.from_dict(data).square.scaled_hw((480, 640)) == (48, 64)
