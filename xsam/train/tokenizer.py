"""The tokenizer of the tiny model: one token per word of the simulator's vocabulary."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xsam.inference.chat_format import END_TAG
from xsam.inference.prompts import PHRASE_CLOSE, PHRASE_OPEN, SEG_TAG, Conversation, conversation_for
from xsam.sim.conversation import VOCABULARY
from xsam.types.requests import Query, Task, VisualPrompt

PAD, BOS, EOS, UNKNOWN = "<|endoftext|>", "<s>", "</s>", "<unk>"
_TAGS = (PAD, BOS, EOS, "<|user|>", "<|assistant|>", END_TAG, SEG_TAG, PHRASE_OPEN, PHRASE_CLOSE)
_SEGMENTER = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
)


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer for the simulator's vocabulary and the canonical prompts.

    Words are lowercased; unknown words become `<unk>`.
    """
    vocabulary = set(VOCABULARY)
    for text in _prompt_texts():
        for tag in (*_TAGS, "<image>", "<region>"):
            text = text.replace(tag, " ")
        vocabulary.update(word for word, _ in _SEGMENTER.pre_tokenize_str(text.lower()))
    order = [*_TAGS, UNKNOWN, *sorted(vocabulary - {UNKNOWN})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(order)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = _SEGMENTER
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END_TAG,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[tag for tag in _TAGS if tag not in (PAD, BOS, END_TAG)],
        clean_up_tokenization_spaces=False,
    )


def save_tiny_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files to a folder."""
    build_tiny_tokenizer().save_pretrained(folder)


def _prompt_texts() -> list[str]:
    point = VisualPrompt.point(0, 0)
    queries = [
        Query(task=Task.GENERIC, thing_classes=("object", "table", "wall", "floor")),
        Query(task=Task.REFERRING, text="the object"),
        Query(task=Task.REASONING, text="what is it?"),
        Query(task=Task.REASONING, text="what is it?", explain=True),
        Query(task=Task.GROUNDED_CONVERSATION),
        Query(task=Task.INTERACTIVE, prompts=(point,)),
        Query(task=Task.VISUAL_GROUNDED, prompts=(point, point)),
    ]
    conversations: list[Conversation] = [conversation_for(query) for query in queries]
    texts = [f"{c.question} {c.answer}" for c in conversations]
    return [*texts, "The segmentation mask is .", "yes no not how many are there what is this"]
