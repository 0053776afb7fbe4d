"""What a user says about sources besides their names."""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT_PICTURES_HZ = 10.0
"""Assumed rate of pictures that follow each other: files have no time stamps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BagTopics:
    """What is read from a bag; "" = choose, or nothing."""

    color: str = ""
    depth: str = ""
    info: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Options of all kinds of sources."""

    rate_hz: float = DEFAULT_PICTURES_HZ  # of pictures
    allow_network: bool = False  # addresses may be opened
    bag: BagTopics = field(default_factory=BagTopics)
