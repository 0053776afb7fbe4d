"""Options about sources of frames, the same in every command that has them."""

from __future__ import annotations

from typing import Annotated

import typer

RECORDINGS = "Several frames"
BAGS = "Bags"

EveryFrame = Annotated[
    str,
    typer.Option(
        "--every",
        metavar="N|SECONDS",
        help="Use one frame in N, or in a time: --every 10, --every 0.5s.",
        rich_help_panel=RECORDINGS,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run in the folder, which was stopped: --resume.",
        rich_help_panel=RECORDINGS,
    ),
]
PicturesHz = Annotated[
    float,
    typer.Option(
        "--fps",
        min=0.001,
        max=10_000,
        help="Rate of pictures that follow each other, which have no stamps: --fps 30.",
        rich_help_panel=RECORDINGS,
    ),
]
Network = Annotated[
    bool,
    typer.Option(
        "--network",
        help="Allow sources that are addresses: rtsp://camera/stream --network.",
        rich_help_panel=RECORDINGS,
    ),
]
Topic = Annotated[
    str | None,
    typer.Option(
        "--topic",
        help="Of a bag: images to use, if it has several: --topic /camera/image_raw.",
        rich_help_panel=BAGS,
    ),
]
