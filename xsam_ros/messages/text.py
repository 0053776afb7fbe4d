"""Text fields: ROS cuts a string at a NUL and cannot encode lone surrogates."""

from __future__ import annotations

from xsam.errors import InvalidQueryError


def require_sendable(field: str, text: str) -> str:
    """Return `text` unchanged if a ROS string can carry it.

    Raises:
        InvalidQueryError: not a string, or it contains a NUL or a lone surrogate.
    """
    if not isinstance(text, str):
        raise InvalidQueryError(f"{field} must be text, got {type(text).__name__}")
    if "\0" in text or replace_unsendable(text) != text:
        raise InvalidQueryError(f"{field} contains a character that cannot be sent: {text[:40]!r}")
    return text


def replace_unsendable(text: str) -> str:
    """Replace what a ROS string cannot carry; for text that the node itself produced."""
    return str(text).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
