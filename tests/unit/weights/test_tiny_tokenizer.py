"""The tiny model's tokenizer: one token for each word of the simulator, and one for each tag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xsam.config import tiny_config
from xsam.sim import language
from xsam.sim.conversation import VOCABULARY
from xsam.train.tokenizer import build_tiny_tokenizer, save_tiny_tokenizer
from xsam.weights.tokenizer_files import load_tokenizer

TAGS = ("<|endoftext|>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>", "<SEG>", "<p>", "</p>")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tiny_tokenizer()


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def test_every_word_of_the_simulator_is_one_known_token(tokenizer: Any) -> None:
    assert set(language.VOCABULARY) < set(VOCABULARY)
    for word in VOCABULARY:
        ids = _ids(tokenizer, word)
        assert len(ids) == 1, word
        assert ids[0] != tokenizer.unk_token_id, word
    assert len({_ids(tokenizer, word)[0] for word in VOCABULARY}) == len(VOCABULARY)


def test_tags_are_single_tokens_wherever_they_stand(tokenizer: Any) -> None:
    ids = {tag: _ids(tokenizer, tag) for tag in TAGS}
    assert all(len(tag_ids) == 1 for tag_ids in ids.values())
    assert len({tag_ids[0] for tag_ids in ids.values()}) == len(TAGS)
    (mug,) = _ids(tokenizer, "mug")
    for tag in TAGS:
        assert _ids(tokenizer, f"mug{tag}mug") == [mug, *ids[tag], mug]


def test_the_configuration_names_its_special_tokens(tokenizer: Any) -> None:
    llm = tiny_config(vocab_size=len(tokenizer)).llm
    named = tokenizer.convert_ids_to_tokens([llm.pad_token_id, llm.bos_token_id, llm.eos_token_id])
    assert named == ["<|endoftext|>", "<s>", "</s>"]
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (
        "<|endoftext|>",
        "<s>",
        "<|end|>",
    )


def test_case_does_not_matter_and_punctuation_is_separate(tokenizer: Any) -> None:
    words = _ids(tokenizer, "what can i drink from ?")
    assert _ids(tokenizer, "What can I DRINK from?") == words
    assert len(words) == 6
    assert tokenizer.unk_token_id not in words


def test_tags_in_another_case_are_words(tokenizer: Any) -> None:
    """Lowercasing must not turn text into a tag, or a tag into text."""
    seg, open_id = _ids(tokenizer, "<SEG>")[0], _ids(tokenizer, "<p>")[0]
    for text in ("<seg>", "<Seg>", "< SEG >", "<P>", "seg", "p"):
        ids = _ids(tokenizer, text)
        assert seg not in ids
        assert open_id not in ids


def test_unknown_words_get_the_unknown_token(tokenizer: Any) -> None:
    mug, unknown = _ids(tokenizer, "mug")[0], tokenizer.unk_token_id
    assert _ids(tokenizer, "mug xylophone mug") == [mug, unknown, mug]


def test_it_can_be_saved_and_loaded(tokenizer: Any, tmp_path: Path) -> None:
    save_tiny_tokenizer(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.get_vocab() == tokenizer.get_vocab()
    question = "<|user|>\nPlease segment <p>the red mug</p>.<|end|>\n"
    text = f"{question}<|assistant|>\nSure, <SEG>.<|end|>"
    assert _ids(loaded, text) == _ids(tokenizer, text)
    assert loaded.unk_token_id == tokenizer.unk_token_id
    assert tokenizer.unk_token_id not in _ids(loaded, text)
    assert len(loaded) == len(tokenizer)


def test_token_ids_are_stable(tokenizer: Any) -> None:
    """Token ids must not depend on the order of a set: the weights belong to ids."""
    assert build_tiny_tokenizer().get_vocab() == tokenizer.get_vocab()
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    assert [token_id for _, token_id in tokens] == list(range(len(tokenizer)))
    words = [token for token, _ in tokens if token not in (*TAGS, tokenizer.unk_token)]
    assert words == sorted(words)
