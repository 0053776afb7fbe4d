"""Tokenizer folders of checkpoints: opened exactly as they are, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from xsam.config import SPECIAL_TOKENS
from xsam.errors import CheckpointError
from xsam.weights.weight_files import one_line, refuse_other_content


def open_tokenizer(folder: Path) -> Any:
    """Open `tokenizer.json` exactly as it is.

    `AutoTokenizer` would rebuild Phi-3's tokenizer by the rules of its class without a `config.json` next
    to it, and then split the text after a tag differently.

    Raises:
        CheckpointError: there is no tokenizer, or it is damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no tokenizer folder {folder}")
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"no tokenizer.json in {folder}")
    with (folder / "tokenizer.json").open("rb") as stream:
        first = stream.read(512)
    if not first.lstrip().startswith(b"{"):
        refuse_other_content(folder / "tokenizer.json", first)
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise CheckpointError(f"cannot open the tokenizer in {folder}: {one_line(error)}") from error


def load_tokenizer(folder: Path, *, vocab_size: int | None = None) -> Any:
    """Open a tokenizer folder and check that it has X-SAM's special tokens.

    Args:
        folder: with `tokenizer.json`.
        vocab_size: rows of the model's vocabulary, if known.

    Raises:
        CheckpointError: there is no tokenizer, it is damaged, lacks one of the tokens, or has more tokens
            than the model.
    """
    tokenizer = open_tokenizer(folder)
    unknown = [
        t for t in SPECIAL_TOKENS if tokenizer.convert_tokens_to_ids(t) in (None, tokenizer.unk_token_id)
    ]
    if unknown:
        raise CheckpointError(
            f"the tokenizer in {folder} lacks {', '.join(unknown)}", hint="write it with `xsam convert`"
        )
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {vocab_size}",
            hint="the tokenizer belongs to another checkpoint",
        )
    return tokenizer
