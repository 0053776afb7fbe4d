"""Score a model on simulated clips: every frame segmented, and keyframes with masks carried in between.

`xsam eval MODEL --clips START:COUNT --json` prints these keys, means over all clips:

* `jf_every_frame`, `jf_keyframe_5`, `jf_keyframe_10`: J&F with the model's masks in every frame, every fifth
  and every tenth; `j_…` and `f_…` are its parts. `jf_loss_5` and `jf_loss_10` are the differences.
* `truth_…`: the same with true masks in the keyframes, which measures the propagation alone; in every frame,
  what is left to 1 are objects that have another track after they were hidden. `truth_…_eager`
  asks between them as well, as sessions do (`PropagationOptions.eager`), in `truth_keyframe_share` of frames.
* `id_switches_per_100`: how often the track id of an object changes, per object and 100 frames, with
  keyframes every 10 frames; `id_switches_per_100_every_frame` and `truth_id_switches_per_100` accordingly.
  `id_transfers_per_100…`: how often a track id goes over to another object.
* `ms_per_propagated_frame`: median CPU time of a frame without the model; `ms_per_model_frame`: with it.
* `n`: clips; `frames`; `object_frames`: objects in all frames; `failed`: frames without an answer.

J is the mean IoU of the objects, F the accuracy of their boundaries. An object's masks are those of the track
that overlaps it most over the whole clip (DAVIS 2019, unsupervised); without one, both are 0. As elsewhere,
slivers and objects that are mostly hidden or out of view do not count in the frames where they are so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from xsam.errors import XSamError
from xsam.eval.boundary import boundary_f
from xsam.segmenter import Engine, Session, video_engine
from xsam.sim.annotate import annotate
from xsam.sim.clips import FRAME_RATE_HZ, ClipConfig, TableClip, sample_clip
from xsam.sim.render import RenderedView
from xsam.spatial.tracking import InstanceTracker
from xsam.types.masks import MaskRle
from xsam.types.requests import Frame, Query, SegmentationResult, Segments, Status, Task
from xsam.video.motion import CameraMotion
from xsam.video.propagation import Propagation, PropagationOptions
from xsam.video.session import open_propagation

CADENCES = (5, 10)
_SAME_OBJECT_IOU = 0.5
_NS_PER_S = 1_000_000_000

Sheet = Callable[[int, "Sequence[tuple[Frame, SegmentationResult]]"], None]
"""Draws some frames of the clip of a seed, with the masks of keyframes every ten frames."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ClipFrame:
    """A frame with its true masks."""

    frame: Frame
    objects: dict[int, MaskRle]  # all that can be seen, by instance id
    scored: frozenset[int]  # of them, those that count


@dataclass(slots=True, kw_only=True)
class TrackScores:
    """J, F and identity switches of one way to segment, over all clips so far."""

    overlaps: list[float] = field(default_factory=list)  # J of each object in each frame
    boundaries: list[float] = field(default_factory=list)
    switches: int = 0
    transfers: int = 0

    @property
    def j(self) -> float:
        return statistics.fmean(self.overlaps) if self.overlaps else 0.0

    @property
    def f(self) -> float:
        return statistics.fmean(self.boundaries) if self.boundaries else 0.0

    @property
    def jf(self) -> float:
        return (self.j + self.f) / 2

    @property
    def switches_per_100(self) -> float:
        return 100.0 * self.switches / len(self.overlaps) if self.overlaps else 0.0

    @property
    def transfers_per_100(self) -> float:
        return 100.0 * self.transfers / len(self.overlaps) if self.overlaps else 0.0

    def add_clip(self, truths: Sequence[dict[int, MaskRle]], found: Sequence[dict[int, MaskRle]]) -> None:
        """Score a clip.

        Args:
            truths: for each frame, the masks of the objects that count, by instance id.
            found: for each frame, masks by track id.
        """
        objects = sorted({key for frame in truths for key in frame})
        tracks = sorted({key for frame in found for key in frame})
        sums = np.zeros((len(objects), len(tracks)))
        last: dict[int, int] = {}
        owner: dict[int, int] = {}
        for truth, masks in zip(truths, found, strict=True):
            ids, names = list(truth), list(masks)
            iou = MaskRle.iou_matrix([truth[i] for i in ids], [masks[n] for n in names])
            for row, column in zip(*np.nonzero(iou), strict=True):
                sums[objects.index(ids[row]), tracks.index(names[column])] += iou[row, column]
            for row, column in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
                if iou[row, column] >= _SAME_OBJECT_IOU:
                    self.switches += last.get(ids[row], names[column]) != names[column]
                    last[ids[row]] = names[column]
                    self.transfers += owner.get(names[column], ids[row]) != ids[row]
                    owner[names[column]] = ids[row]
        rows, columns = linear_sum_assignment(sums, maximize=True)
        track_of = {objects[row]: tracks[column] for row, column in zip(rows, columns, strict=True)}
        for truth, masks in zip(truths, found, strict=True):
            for key, true_mask in truth.items():
                mask = masks.get(track_of.get(key, -1))
                self.overlaps.append(0.0 if mask is None else mask.iou(true_mask))
                self.boundaries.append(0.0 if mask is None else boundary_f(mask.decode(), true_mask.decode()))


class _Run:
    """One way to segment a clip."""

    def __init__(self, step: Callable[[_ClipFrame], SegmentationResult], scores: TrackScores) -> None:
        self.scores = scores
        self.results: list[SegmentationResult] = []
        self.carried_s: list[float] = []
        self.asked_s: list[float] = []
        self.failed = 0
        self._step = step
        self._tracker = InstanceTracker()
        self._found: list[dict[int, MaskRle]] = []

    def add(self, item: _ClipFrame) -> None:
        started_s = time.process_time()
        try:
            result = self._step(item)
        except XSamError as error:
            result = SegmentationResult.from_error(error, Query(), item.frame)
        elapsed_s = time.process_time() - started_s
        self.failed += not result.answered
        (self.asked_s if result.carried is None else self.carried_s).append(elapsed_s)
        ids = self._tracker.update(
            result.segments, stamp_s=item.frame.stamp_ns * 1e-9, keyframe_ns=result.keyframe_ns
        )
        self.results.append(replace(result, segments=replace(result.segments, track_ids=ids)))
        self._found.append(dict(zip(ids.tolist(), result.segments.masks, strict=True)))

    def score(self, items: Sequence[_ClipFrame]) -> None:
        truths = [{key: item.objects[key] for key in item.scored} for item in items]
        self.scores.add_clip(truths, self._found)


def evaluate_clips(
    model: Engine,
    seeds: range,
    *,
    length: int = 60,
    image_hw: tuple[int, int] = (480, 640),
    show_progress: bool = False,
    sheet: Sheet | None = None,
) -> dict[str, Any]:
    """Score a model on the clips of non-negative `seeds`.

    Args:
        model: an engine; if its model remembers earlier frames, it is asked with that memory.
        seeds: of the clips.
        length: frames of each clip.
        image_hw: (H, W) of the frames.
        show_progress: show a progress bar on stderr.
        sheet: draws frames of each clip.

    Returns:
        The scores: see above.
    """
    names = ("every_frame", *(f"keyframe_{n}" for n in CADENCES))
    truth_names = tuple(f"truth_{name}" for name in (*names, "eager"))
    scores = {name: TrackScores() for name in (*names, *truth_names)}
    carried_s: list[float] = []
    asked_s: list[float] = []
    frames = failed = asked_in_truth = 0
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for seed in tqdm(seeds, unit="clip", disable=not show_progress):
            clip = sample_clip(seed, ClipConfig(length=length))
            items = list(_frames(clip, image_hw))
            runs = {name: _Run(step, scores[name]) for name, step in _model_steps(model, clip).items()}
            runs |= {name: _Run(step, scores[name]) for name, step in _truth_steps().items()}
            for item in items:
                for run in runs.values():
                    run.add(item)
            for run in runs.values():
                run.score(items)
                carried_s += run.carried_s
            asked_s += runs["every_frame"].asked_s
            failed += runs["every_frame"].failed
            asked_in_truth += len(runs["truth_eager"].asked_s)
            frames += len(items)
            if sheet is not None:
                sheet(seed, [(i.frame, r) for i, r in zip(items, runs["keyframe_10"].results, strict=True)])
    finally:
        cv2.setNumThreads(threads)
    found: dict[str, Any] = {"n": len(seeds), "frames": frames, "failed": failed}
    found["object_frames"] = len(scores["every_frame"].overlaps)
    for name, score in scores.items():
        for part in ("j", "f", "jf"):
            prefix, _, rest = name.rpartition("truth_")
            key = f"truth_{part}_{rest}" if prefix or name.startswith("truth_") else f"{part}_{rest}"
            found[key] = round(getattr(score, part), 4)
    for cadence in CADENCES:
        found[f"jf_loss_{cadence}"] = round(scores["every_frame"].jf - scores[f"keyframe_{cadence}"].jf, 4)
        found[f"truth_jf_loss_{cadence}"] = round(
            scores["truth_every_frame"].jf - scores[f"truth_keyframe_{cadence}"].jf, 4
        )
    for kind in ("switches", "transfers"):
        for key, name in (
            (f"id_{kind}_per_100", "keyframe_10"),
            (f"id_{kind}_per_100_every_frame", "every_frame"),
            (f"truth_id_{kind}_per_100", "truth_keyframe_10"),
        ):
            found[key] = round(getattr(scores[name], f"{kind}_per_100"), 4)
    found["truth_keyframe_share"] = round(asked_in_truth / frames, 3) if frames else None
    found["ms_per_propagated_frame"] = _median_ms(carried_s)
    found["ms_per_model_frame"] = _median_ms(asked_s)
    return found


def clip_query(clip: TableClip) -> Query:
    """Return the query for all categories of a clip's objects."""
    names = tuple(dict.fromkeys(item.category for item in clip.scene.objects))
    return Query(task=Task.OPEN_VOCABULARY, thing_classes=names)


def _median_ms(seconds: Sequence[float]) -> float | None:
    return round(1000.0 * statistics.median(seconds), 2) if seconds else None


def _frames(clip: TableClip, image_hw: tuple[int, int]) -> Iterator[_ClipFrame]:
    for index, view in enumerate(clip.views(image_hw=image_hw)):
        # Stamps do not begin with 0, which stands for none.
        stamp_ns = round((1.0 + index / FRAME_RATE_HZ) * _NS_PER_S)
        yield _ClipFrame(
            frame=Frame(rgb=view.rgb, stamp_ns=stamp_ns),
            objects=_objects(view),
            scored=frozenset(
                item.instance_id for item in annotate(clip.scene_at(index), view) if item.labeled
            ),
        )


def _objects(view: RenderedView) -> dict[int, MaskRle]:
    ids = np.unique(view.instance_ids)
    return {int(key): MaskRle.encode(view.instance_ids == key) for key in ids if key}


def _model_steps(model: Engine, clip: TableClip) -> dict[str, Callable[[_ClipFrame], SegmentationResult]]:
    """Return the ways to segment a clip with the model."""
    query, video = clip_query(clip), video_engine(model)
    if video is None:
        engine: Engine = _Remembering(model)
        every = open_propagation(engine, query, PropagationOptions(every=1, eager=False))
        sessions: dict[str, Session] = {"every_frame": every}
    else:
        engine = model
        sessions = {"every_frame": video.open_session(query, refresh_every=30, late_s=1.0)}
    for cadence in CADENCES:
        options = PropagationOptions(every=cadence, eager=False)
        sessions[f"keyframe_{cadence}"] = open_propagation(engine, query, options)

    def stepping(session: Session) -> Callable[[_ClipFrame], SegmentationResult]:
        return lambda item: session.step(item.frame)

    return {name: stepping(session) for name, session in sessions.items()}


def _truth_steps() -> dict[str, Callable[[_ClipFrame], SegmentationResult]]:
    """Return the ways to carry true masks."""
    options = {"truth_every_frame": PropagationOptions(every=1, eager=False)}
    options |= {f"truth_keyframe_{n}": PropagationOptions(every=n, eager=False) for n in CADENCES}
    options["truth_eager"] = PropagationOptions(every=max(CADENCES))

    def stepping(chosen: PropagationOptions) -> Callable[[_ClipFrame], SegmentationResult]:
        camera, propagation = CameraMotion(), Propagation(Query(), chosen)

        def step(item: _ClipFrame) -> SegmentationResult:
            motion = camera.advance(item.frame)
            propagation.advance(item.frame, camera.gray, motion)
            if propagation.due:
                propagation.hold()
                propagation.correct(_true_answer(item))
            result = propagation.result()
            assert result is not None
            return result

        return step

    return {name: stepping(chosen) for name, chosen in options.items()}


def _true_answer(item: _ClipFrame) -> SegmentationResult:
    masks = tuple(item.objects.values())
    return SegmentationResult(
        status=Status.FOUND if masks else Status.NOT_FOUND,
        query=Query(),
        segments=Segments(
            image_hw=item.frame.image_hw,
            masks=masks,
            labels=tuple(f"object {key}" for key in item.objects),
            label_indices=np.zeros(len(masks), np.int32),
            scores=np.ones(len(masks), np.float32),
            boxes_xyxy=np.array([mask.crop().box_xyxy for mask in masks], np.float32).reshape(-1, 4),
        ),
        stamp_ns=item.frame.stamp_ns,
    )


class _Remembering:
    """An engine that is asked about a frame once, and answers again with the same result."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._frame: Frame | None = None
        self._results: list[SegmentationResult] = []
        self.model_id = engine.model_id

    def segment(self, source: Any, queries: Sequence[Query], **options: Any) -> list[SegmentationResult]:
        if source is not self._frame:
            self._results = self._engine.segment(source, queries, **options)
            self._frame = source
        return self._results

    def warm_up(self) -> None:
        self._engine.warm_up()

    def close(self) -> None:
        self._engine.close()
