"""Where the golden models and tensors are that the repository carries."""

from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "data"
GOLDEN_QWEN3 = GOLDEN.parent / "data_qwen3"
GOLDEN_X2SAM = GOLDEN.parent / "data_x2sam"
