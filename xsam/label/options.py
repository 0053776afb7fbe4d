"""How a source is labeled, and how a folder remembers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from xsam.errors import InvalidOptionError, SourceError
from xsam.label.distinct import DEFAULT_TOLERANCE
from xsam.media.frames import Every
from xsam.types.requests import Query, Task

COMMAND = "label"
DEFAULT_REVIEWED = 300
DEFAULT_TRUST = 0.2
"""A compromise: detectors learn more from more labels, and what is asked for may not be all that there is.
See docs/evaluation.md."""
MAX_REVIEWED = 5000
"""Items on a contact sheet: it is one file with all its pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """How a source is labeled.

    Attributes:
        classes: what to label.
        threshold: lowest score of a label; None = the model's own.
        every: which frames to look at.
        trust: a doubtful label is used, and no region to ignore, if such answers are right this often; 1 =
            never.
        propagate: frames from one keyframe to the next, at most; 1 = the model sees every frame.
        duplicates: gray levels up to which frames are near-duplicates; 0 = keep all. See `DistinctFrames`.
        val: share of the data for validation.
        gray: also write images in which ignored regions are gray, for trainers that cannot ignore them.
        reviewed: items on the contact sheet, at most.
    """

    classes: tuple[str, ...]
    threshold: float | None = None
    trust: float = DEFAULT_TRUST
    every: Every = field(default_factory=Every)
    propagate: int = 10
    duplicates: int = DEFAULT_TOLERANCE
    val: float = 0.2
    gray: bool = False
    reviewed: int = DEFAULT_REVIEWED

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidQueryError: a class has no name, or there are too many.
            InvalidOptionError: a number is out of its range.
        """
        ranges = {
            "trust": (0.0, 1.0),
            "propagate": (1, 1000),
            "duplicates": (0, 255),
            "val": (0.0, 0.9),
            "reviewed": (0, MAX_REVIEWED),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise InvalidOptionError(f"{name} must be from {least} to {most}, got {getattr(self, name)}")
        if not self.classes:
            raise InvalidOptionError("there is nothing to label", hint="name classes: --classes mug,plate")
        self.query().validate()

    def query(self, own_threshold: float | None = None) -> Query:
        """Return what is asked about keyframes.

        A threshold is always named: then nothing that reaches it is kept back, also what is hardly ever right
        beside something else. It is a region to ignore, and not background.

        Args:
            own_threshold: without one of the user: `instance_threshold` of the model, which may be below the
                one that it has for lists; None = it is not known.
        """
        threshold = own_threshold if self.threshold is None else self.threshold
        return Query(task=Task.OPEN_VOCABULARY, thing_classes=self.classes, score_threshold=threshold)

    def as_run(self, model: str, sources: Sequence[str]) -> dict[str, Any]:
        """Return what identifies the run, for its journal."""
        return {
            "command": COMMAND,
            "model": model,
            "sources": list(sources),
            **asdict(self),
            "classes": list(self.classes),
        }

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> LabelOptions:
        """Return the options of the run of a journal.

        Raises:
            SourceError: it is not a run of `xsam label`.
        """
        if run.get("command") != COMMAND:
            raise SourceError(
                "the results in the folder are not of `xsam label`", hint="give its --out folder"
            )
        try:
            return cls(
                **{
                    **{
                        name: run[name]
                        for name in (
                            "threshold",
                            "trust",
                            "propagate",
                            "duplicates",
                            "val",
                            "gray",
                            "reviewed",
                        )
                    },
                    "classes": tuple(run["classes"]),
                    "every": Every(**run["every"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise SourceError(f"the options of the run are damaged: {error}", hint="label again") from error
