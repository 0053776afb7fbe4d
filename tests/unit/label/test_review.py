"""The contact sheet in a browser: its order, its keys, and that nothing in a name can do anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from support.browser import browser, missing_browser
from tests.unit.label.labeling import OPTIONS, coco, label_colors
from tests.unit.media.clips import scene, write_video
from xsam.label.run import apply_decisions

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_browser()), reason=missing_browser()),
]
HOSTILE = "blue</script><img src=x onerror=document.title=1>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as program:
        yield program


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1300, "height": 900})
    yield context.new_page()
    context.close()


def open_sheet(page: Page, folder: Path) -> list[str]:
    """Open the sheet; return what it asks the browser for besides itself, and its errors."""
    events: list[str] = []
    page.on("request", lambda request: events.append(request.url))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("console", lambda message: events.append(message.text))
    page.goto((folder / "review.html").as_uri())
    return events


def decisions_of(page: Page) -> list[str]:
    return [str(tile.get_attribute("data-decision")) for tile in page.locator(".item").all()]


def frames_of_first_item(folder: Path) -> int:
    """Return the number of frames from the first keyframe to the second."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    carried = ["carried" in line["results"][0] for line in lines if line.get("results")]
    return carried.index(False, 1)


def saved(page: Page, path: Path) -> dict[str, Any]:
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "decisions.json"
    download.value.save_as(path)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clips = [
        write_video(tmp_path / f"{name}.mp4", [scene(step + start) for step in range(7)])
        for name, start in (("a", 0), ("b", 10))
    ]
    label_colors(tmp_path / "out", *clips)
    return tmp_path / "out"


def test_doubtful_ones_first_decided_by_keys_saved_and_applied(
    page: Page, folder: Path, tmp_path: Path
) -> None:
    events = open_sheet(page, folder)
    labels = page.locator(".label").all_text_contents()
    assert labels == ["blue"] * 4 + ["red"] * 4
    assert page.locator(".doubt").first.text_content() == "pale"
    assert f"in {frames_of_first_item(folder)} frames" in str(page.locator(".what").first.text_content())
    loaded = (
        "Promise.all([...document.images].map(image => image.decode())).then(() => document.images.length)"
    )
    assert page.evaluate(loaded) == 8
    for key in "ari":
        page.keyboard.press(key)
    page.keyboard.press("a")
    page.keyboard.press("k")
    page.keyboard.press("u")
    assert decisions_of(page) == ["accept", "reject", "ignore", "", "", "", "", ""]
    content = saved(page, tmp_path / "decisions.json")
    assert sorted(content["decisions"].values()) == ["accept", "ignore", "reject"]
    assert [event for event in events if not event.startswith(("data:", "blob:"))] == [
        (folder / "review.html").as_uri()
    ]
    done = apply_decisions(folder, tmp_path / "decisions.json")
    assert (done.counts.decisions, done.counts.doubtful) == (3, 1)

    open_sheet(page, folder)  # decided ones come last now, and can be taken back
    assert decisions_of(page)[:5] == [""] * 5
    assert page.locator(".label").first.text_content() == "blue"
    page.locator(".item[data-decision=accept] button.accept").click()
    content = saved(page, tmp_path / "again.json")
    assert list(content["decisions"].values()) == ["undecided"]
    assert apply_decisions(folder, tmp_path / "again.json").counts.decisions == 2


def test_what_was_decided_survives_a_closed_page(page: Page, folder: Path) -> None:
    open_sheet(page, folder)
    page.keyboard.press("a")
    page.keyboard.press("r")
    other = page.context.new_page()
    open_sheet(other, folder)
    assert decisions_of(other)[:3] == ["accept", "reject", ""]
    assert "2 not applied yet" in str(other.locator("#count").text_content())
    other.locator("#open").check()
    assert other.locator(".item:visible").count() == 6


def test_moving_about(page: Page, folder: Path) -> None:
    open_sheet(page, folder)
    focused = "[...document.querySelectorAll('.item')].indexOf(document.activeElement)"
    columns = page.evaluate(
        "[...document.querySelectorAll('.item')].filter(tile => tile.offsetTop === "
        "document.querySelector('.item').offsetTop).length"
    )
    assert 1 < columns < 8
    for key, place in (
        ("ArrowDown", columns),
        ("ArrowLeft", columns - 1),
        ("j", columns),
        ("ArrowUp", 0),
        ("k", 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate(focused) == place, key


def test_names_are_text(page: Page, tmp_path: Path) -> None:
    """Class names and file names with markup in them: shown as they are, and in no path."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        Image.fromarray(scene(4 * number)).save(photos / f"<b onclick=1>'\"&{number}.png")
    options = replace(OPTIONS, classes=("red", HOSTILE, "../../etc/passwd", "a: b # c\u2028"))
    label_colors(tmp_path / "out", photos, options=options)
    assert [item["name"] for item in coco(tmp_path / "out")["categories"]] == list(options.classes)
    assert not list(tmp_path.rglob("*passwd*"))
    html = (tmp_path / "out" / "review.html").read_text()
    assert html.count("<script>") == html.count("</script>") == 1
    open_sheet(page, tmp_path / "out")
    assert HOSTILE in page.locator(".label").all_text_contents()
    assert page.title() == "Labels to review"
    assert page.locator("#items img").count() == page.locator(".item").count()


def test_the_sheet_has_a_limit_and_says_so(page: Page, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", [scene(step) for step in range(12)])
    done = label_colors(tmp_path / "out", clip, options=replace(OPTIONS, propagate=1, reviewed=5))
    assert (done.counts.review, done.counts.review_left, done.counts.doubtful) == (5, 19, 12)
    open_sheet(page, tmp_path / "out")
    assert page.locator(".item").count() == 5
    assert "19 more labels" in str(page.locator("#left").text_content())
    done = label_colors(tmp_path / "none", clip, options=replace(OPTIONS, propagate=1, reviewed=0))
    assert (done.counts.review, done.counts.review_left, done.counts.doubtful) == (0, 24, 12)


def test_nothing_to_review(page: Page, tmp_path: Path) -> None:
    Image.fromarray(scene(0)).save(tmp_path / "a.png")
    label_colors(tmp_path / "out", tmp_path / "a.png", options=replace(OPTIONS, classes=("green",)))
    events = open_sheet(page, tmp_path / "out")
    page.keyboard.press("a")
    assert "0 shown" in str(page.locator("#count").text_content())
    assert len(events) == 1
