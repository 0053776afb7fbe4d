"""Every command in docs/files.md runs as it is printed, on small pictures, videos and bags."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from support.golden import GOLDEN
from tests.docs.documents import read
from tests.unit.media.clips import scene, write_video
from tests.unit.media.recordings import (
    DEPTH,
    HW,
    START_NS,
    STEP_NS,
    Recorded,
    camera_info,
    header,
    image,
    only_file,
    write_bag,
)
from xsam import cli

pytestmark = pytest.mark.slow

COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", read("docs/files.md"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("xsam ")
]
NEED_A_CAMERA = ("xsam segment 0 ", "xsam segment rtsp:", "xsam segment https:")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the document speaks of."""
    root = tmp_path_factory.mktemp("files")
    (root / "photos" / "more").mkdir(parents=True)
    for name in ("photo.jpg", "photos/1.jpg", "photos/2.jpg", "photos/more/3.jpg"):
        Image.fromarray(scene(1, hw=(480, 640))).save(root / name)
    (root / "list.txt").write_text("photos/1.jpg\nphotos/2.jpg\n")
    write_video(root / "clip.mp4", [scene(step) for step in range(3)], [0, 300, 700])
    messages = [
        recorded
        for step in range(2)
        for recorded in (
            Recorded(
                topic="/camera/camera_info",
                message=camera_info(HW, header(step)),
                stamp_ns=START_NS + step * STEP_NS,
            ),
            Recorded(
                topic="/camera/depth/image_raw",
                message=image(DEPTH, "16UC1", header(step)),
                stamp_ns=START_NS + step * STEP_NS + 1,
            ),
            Recorded(
                topic="/camera/image_raw",
                message=image(scene(step), "rgb8", header(step)),
                stamp_ns=START_NS + step * STEP_NS + 2,
            ),
        )
    ]
    bag = write_bag(root / "bag", messages)
    shutil.copy(only_file(bag), root / "bag.mcap")
    return root


def test_the_document_has_commands() -> None:
    assert len(COMMANDS) > 12


def prepare_labels(folder: Path, command: str) -> None:
    """Leave what a command about labels needs: nothing, or a data set and decisions about it."""
    shutil.rmtree(folder / "mugs", ignore_errors=True)
    if "--apply" in command:
        labels = shlex.split(next(line for line in COMMANDS if line.startswith("xsam label clip")))[1:]
        CliRunner().invoke(cli.app, [*labels, "--model", str(GOLDEN / "a"), "--device", "cpu"])
        run = json.loads((folder / "mugs" / "label.json").read_text())["run"]
        content = {"format": "xsam-label-decisions/1", "run": run, "decisions": {}}
        (folder / "decisions.json").write_text(json.dumps(content))


@pytest.mark.parametrize("command", COMMANDS)
def test_command(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    shutil.rmtree(folder / "runs", ignore_errors=True)
    arguments = [*shlex.split(command)[1:], "--model", str(GOLDEN / "a"), "--device", "cpu"]
    if command.startswith(NEED_A_CAMERA):  # its options are known, and there is no camera here
        arguments[1] = re.sub(r"//[^/]+/", "//127.0.0.1:1/", arguments[1]).replace("0", "98", 1)
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 2, result.output
        assert "cannot be opened" in result.output or "there is no camera" in result.output
        return
    if command.startswith("xsam label"):
        prepare_labels(folder, command)
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code in (0, 3, 4), result.output
    assert "damaged" not in result.output
