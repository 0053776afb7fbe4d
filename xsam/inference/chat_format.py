"""How a language model marks whose turn it is.

Conversations are written with Phi-3's tags everywhere (training data, prompts, generated text). Another
language model reads and writes its own: `ChatFormat` translates. A question cannot contain such tags; they
are removed before it becomes a conversation.
"""

from __future__ import annotations

from dataclasses import dataclass

from xsam.config import XSamConfig

IMAGE_TAG = "<image>"
USER_TURN = "<|user|>\n"
ASSISTANT_TURN = "<|assistant|>\n"
END_TAG = "<|end|>"
_EMPTY_THINKING = "<think>\n\n</think>\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """Tags that a language model was trained with; Phi-3's by default."""

    user: str = USER_TURN
    assistant: str = ASSISTANT_TURN
    end: str = END_TAG
    also_stop_at: tuple[str, ...] = ()  # besides `end` and the tokenizer's end-of-text token
    image: str = f"{IMAGE_TAG}\n"  # with what separates it from the question
    bos: bool = False  # begin with the tokenizer's beginning-of-text token
    medium: str = "image"  # what questions call that which is seen

    def translate(self, conversation: str) -> str:
        """Replace Phi-3's tags by those of the language model."""
        return (
            conversation.replace(USER_TURN, self.user)
            .replace(ASSISTANT_TURN, self.assistant)
            .replace(END_TAG, self.end)
            .replace(f"{IMAGE_TAG}\n", self.image)
        )

    def restore(self, generated: str) -> str:
        """Replace the end tag in generated text by Phi-3's."""
        return generated.replace(self.end, END_TAG)


X2SAM_CHAT = ChatFormat(
    user="<|im_start|>user\n",
    assistant="<|im_start|>assistant\n",
    end="<|im_end|>",
    also_stop_at=("<|endoftext|>",),
    image=f"<|vision_start|>{IMAGE_TAG}<|vision_end|>",
)


def clip_text(patches: int) -> str:
    """Return what stands for a clip in a conversation of X2SAM: a block for every two frames.

    The numbers are a counter, not a time: the model was trained so.
    """
    return "".join(f"<{k}.0 seconds>{X2SAM_CHAT.image}" for k in range(1, patches + 1))


def chat_format(config: XSamConfig) -> ChatFormat:
    """Return the format of a configuration's language model."""
    if config.llm.model_type == "phi3":
        return ChatFormat(bos=config.bos_before_user)
    return ChatFormat(
        user="<|im_start|>user\n",
        assistant=f"<|im_start|>assistant\n{_EMPTY_THINKING if config.empty_thinking else ''}",
        end="<|im_end|>",
        also_stop_at=("<|endoftext|>",),
        bos=config.bos_before_user,
    )
