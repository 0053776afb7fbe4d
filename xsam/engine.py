"""`XSam`, the in-process `Segmenter`: images and queries in, typed results out."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch

from xsam.config import ModelConfig
from xsam.errors import (
    CheckpointError,
    DeadlineExceededError,
    InvalidOptionError,
    InvalidQueryError,
    ModelError,
    OutOfMemoryError,
    error_for_code,
)
from xsam.inference import video_forward
from xsam.inference.acceleration import (
    compile_fixed_shapes,
    cpu_threads,
    multiply_in_bfloat16,
    quantize_language_model,
)
from xsam.inference.census import census_names
from xsam.inference.family import Network, VideoFamily
from xsam.inference.forward import ForwardPass
from xsam.inference.frame_cache import FrameCache
from xsam.inference.free_cores import AT_IMPORT, FreeCores
from xsam.inference.images import ImageOrFrame, as_clip, as_frame
from xsam.inference.options import DEFAULT_FRAME_CACHE_MIB, LoadOptions, check_options
from xsam.inference.prepare import as_query, several
from xsam.inference.stages import StageClock, guarded, model_errors
from xsam.inference.video import VideoSession, VideoState
from xsam.segmenter import check_video_query
from xsam.types.deadline import Deadline, StageHook, TextHook
from xsam.types.requests import CameraRef, Frame, Query, SegmentationResult
from xsam.weights.checkpoint import load_checkpoint, resolve_model
from xsam.weights.x2sam import is_x2sam, load_x2sam

__all__ = ["DEFAULT_FRAME_CACHE_MIB", "ImageOrFrame", "VideoSession", "XSam"]

MAX_REFRESH = 1_000_000


class XSam:
    """X-SAM with its tokenizer and preprocessing, ready to segment.

    Use `XSam.load`. Calls are serialized by a lock and deterministic: with the same number of threads, the
    same frame and queries give the same result. What depends on the frame alone is computed once and cached
    for further queries on the same pixels (see `FrameCache`).
    """

    def __init__(
        self,
        model: Network,
        tokenizer: Any,
        *,
        model_id: str,
        frame_cache_mib: float = DEFAULT_FRAME_CACHE_MIB,
        threads: int | None = None,
    ) -> None:
        options = check_options({"frame_cache_mib": frame_cache_mib, "threads": threads})
        self._forward: ForwardPass | None = ForwardPass(model.eval(), tokenizer, model_id=model_id)
        self._threads = options["threads"]
        self._free_cores = FreeCores(since=AT_IMPORT)
        self._lock = threading.Lock()
        self._frames = FrameCache(int(options["frame_cache_mib"] * 2**20))
        self._process_id = os.getpid()
        self.model_id = model_id

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        *,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        llm_device: str | None = None,
        llm_weights: Literal["as_loaded", "int8", "bfloat16"] = "as_loaded",
        compiled: bool = False,
        threads: int | None = None,
        frame_cache_mib: float = DEFAULT_FRAME_CACHE_MIB,
    ) -> XSam:
        """Open a checkpoint.

        Args:
            model: "tiny" (shipped with the package) or a folder written by `xsam convert`.
            device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1" …
            dtype: "auto" is bfloat16 on CUDA and float32 on the CPU.
            llm_device: device of the language model, if not the same as the rest.
            llm_weights: "int8" stores the language model's matrices in eight bits; needs torchao. "bfloat16"
                stores and multiplies them in it, within a float32 model: a third faster on a known frame, for
                CPUs with instructions for it.
            compiled: compile the encoders with `torch.compile` on the first frame, which takes about two
                minutes on one core and needs a C++ compiler; without one, requests raise `ModelError`.
                Saves a few percent on a new frame on one CPU core; not measured on a GPU.
            threads: CPU threads of PyTorch during a call; None = PyTorch's own number, less the cores that
                other programs have kept busy lately (see `xsam.inference.free_cores`).
            frame_cache_mib: memory for what was computed from earlier frames; 0 disables the cache.

        Raises:
            InvalidOptionError: an option has a value that is not allowed, or this machine has no such device.
            CheckpointError: files are missing, damaged, or do not fit together.
            ModelError: an option needs a package that is not installed, or memory ran out.
        """
        options = LoadOptions.check(  # loading may take minutes
            device=device,
            dtype=dtype,
            llm_device=llm_device,
            llm_weights=llm_weights,
            compiled=compiled,
            threads=threads,
            frame_cache_mib=frame_cache_mib,
        )
        folder, model_id = resolve_model(model)
        with model_errors(f"cannot load {folder}", CheckpointError):
            network, tokenizer = (load_x2sam if is_x2sam(folder) else load_checkpoint)(
                folder, device=options.device, llm_device=options.llm_device, dtype=options.dtype
            )
            if options.llm_weights == "int8":
                quantize_language_model(network)
            if options.llm_weights == "bfloat16":
                multiply_in_bfloat16(network)
            if options.compiled:
                compile_fixed_shapes(network)
        return cls(
            network,
            tokenizer,
            model_id=model_id,
            frame_cache_mib=options.frame_cache_mib,
            threads=options.threads,
        )

    @property
    def config(self) -> ModelConfig:
        return self._open_forward().model.config

    @property
    def cached_frames(self) -> int:
        """Number of frames in the frame cache."""
        return len(self._frames)

    def warm_up(self) -> None:
        """Segment an empty image once, so that the first real request is not the slow one."""
        self.segment(np.zeros((64, 96, 3), np.uint8), "object")

    def close(self) -> None:
        """Release the model's memory; later calls raise `ModelError`."""
        with self._lock:
            self._forward = None
            self._frames.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @overload
    def segment(  # type: ignore[overload-overlap] # a text is a sequence of texts as well
        self,
        source: ImageOrFrame | CameraRef,
        queries: str | Query | VideoSession,
        *,
        deadline_s: float | None = ...,
        on_stage: StageHook | None = ...,
        on_text: TextHook | None = ...,
        keep_frame: bool = ...,
    ) -> SegmentationResult: ...

    @overload
    def segment(
        self,
        source: ImageOrFrame | CameraRef,
        queries: Sequence[str | Query | VideoSession],
        *,
        deadline_s: float | None = ...,
        on_stage: StageHook | None = ...,
        on_text: TextHook | None = ...,
        keep_frame: bool = ...,
    ) -> list[SegmentationResult]: ...

    def segment(
        self,
        source: ImageOrFrame | CameraRef,
        queries: str | Query | VideoSession | Sequence[str | Query | VideoSession],
        *,
        deadline_s: float | None = None,
        on_stage: StageHook | None = None,
        on_text: TextHook | None = None,
        keep_frame: bool = True,
    ) -> SegmentationResult | list[SegmentationResult]:
        """Segment one image by one query or several.

        Args:
            source: uint8 RGB image (H, W, 3), path of an image file, Pillow image, or a `Frame`. The engine
                has no cameras of its own.
            queries: text (a phrase, or a question that ends in "?"), a `Query`, a session of this engine, for
                which the image is the next frame of its video, or a sequence of these.
            deadline_s: seconds from now; checked between stages. None = no limit.
            on_stage: see `StageHook`.
            on_text: see `TextHook`; called after each generated token. Most tasks generate nothing.
            keep_frame: False for one of many frames, each of which is asked about once: see `FrameCache`.

        Returns:
            One result for one query, a list for a sequence; see `Segmenter.segment`.

        Raises:
            InvalidImageError, InvalidQueryError, DeadlineExceededError, ModelError, and what
            the hooks raise. A query in a sequence that is invalid or fails alone is a REFUSED or FAILED
            result instead.
        """
        clock = StageClock(Deadline(deadline_s), on_stage)
        on_text = guarded(on_text)
        notes: list[str] = []
        frame = as_frame(source, notes)
        if isinstance(queries, (str, Query, VideoSession)):
            one = self._as_query_or_session(queries)
            if isinstance(one, Query):
                one.validate(frame.image_hw)
            result = self._segment(frame, [one], clock, on_text, keep_frame)[0].with_notes(notes)
            if result.code:  # found invalid once it was tokenized, or not finite
                raise error_for_code(result.code, result.message, hint=result.hint)
            return result
        parsed = [self._as_query_or_session(query) for query in several(queries)]
        if not parsed:
            raise InvalidQueryError("no queries were given")
        sessions = [id(item) for item in parsed if isinstance(item, VideoSession)]
        if len(set(sessions)) < len(sessions):
            raise InvalidQueryError("the same session is given twice, but a frame is the next one only once")
        results = self._segment(frame, parsed, clock, on_text, keep_frame)
        return [result.with_notes(notes) for result in results]

    def _segment(
        self,
        frame: Frame,
        queries: list[Query | VideoSession],
        clock: StageClock,
        on_text: TextHook | None,
        keep_frame: bool,
    ) -> list[SegmentationResult]:
        options: Any = {"frames": self._frames, "clock": clock, "on_text": on_text, "keep_frame": keep_frame}
        sessions = [query for query in queries if isinstance(query, VideoSession)]
        try:
            with self._exclusive(clock) as forward:
                if sessions:
                    return video_forward.run(forward, frame, queries, **options)
                return forward.run(frame, [query for query in queries if isinstance(query, Query)], **options)
        except ModelError:  # their memory may be the cause, and it takes room
            for session in sessions:
                session.fail()
            raise

    @contextmanager
    def _exclusive(self, clock: StageClock) -> Iterator[ForwardPass]:
        """Give the network to one request at a time, and convert what it raises."""
        self._check_process()  # before the lock, which may be held for ever in a forked process
        timeout_s = clock.deadline.timeout_s
        if not self._lock.acquire(timeout=-1 if timeout_s is None else timeout_s):
            raise DeadlineExceededError("another request kept the model busy until the deadline")
        try:
            with torch.inference_mode(), cpu_threads(self._thread_count()), model_errors():
                yield self._open_forward()
        except OutOfMemoryError:
            self._frames.clear()  # the next request may fit
            raise
        finally:
            self._lock.release()

    def _thread_count(self) -> int | None:
        given: int | None = self._threads
        if given is not None or self._open_forward().model.device.type != "cpu":
            return given
        return min(torch.get_num_threads(), self._free_cores.count())

    @property
    def has_memory(self) -> bool:
        """True if the model remembers earlier frames of a video: see `open_session`."""
        return self._open_forward().family.video is not None

    def open_session(
        self, query: str | Query, *, refresh_every: int = 30, late_s: float = 1.0
    ) -> VideoSession:
        """Follow what a query names through the frames of one video.

        Args:
            query: text or a `Query`; visual prompts belong to the first frame.
            refresh_every: frames after which the query is read again together with the newest frame; 0 reads
                it with the first frame only. The memory stays.
            late_s: a frame that is older than the newest one by at most this, by its stamp, has arrived late
                and is not remembered; one that is still older begins another video.

        Returns:
            A session; sessions of one model take turns with each other and with `segment`.

        Raises:
            InvalidQueryError: the query is invalid, or its answer would be generated text.
            InvalidOptionError: `refresh_every` is not an integer from 0 to 1,000,000, or `late_s` is not a
                positive number of seconds.
            ModelError: the model has no memory.
        """
        family = self._video_family()
        if type(refresh_every) is not int or not 0 <= refresh_every <= MAX_REFRESH:
            raise InvalidOptionError(
                f"refresh_every must be an integer from 0 to {MAX_REFRESH}, got {refresh_every!r:.40}"
            )
        if type(late_s) not in (int, float) or not 0.0 <= late_s < math.inf:
            raise InvalidOptionError(f"late_s must be a number of seconds from 0 on, got {late_s!r:.40}")
        parsed = as_query(query)
        check_video_query(parsed)
        state = VideoState(
            query=parsed, bank=family.new_bank(), refresh_every=refresh_every, late_s=float(late_s)
        )
        return VideoSession(self, state)

    def segment_clip(
        self,
        frames: Sequence[ImageOrFrame],
        query: str | Query,
        *,
        deadline_s: float | None = None,
        on_stage: StageHook | None = None,
    ) -> list[SegmentationResult]:
        """Segment every frame of a short clip, which the language model reads whole, later frames too.

        Args:
            frames: at most 64 images of one size, in order; stamps do not matter.
            query: text or a `Query`; visual prompts belong to the first frame.
            deadline_s: seconds from now, for the whole clip; checked between stages. None = no limit.
            on_stage: see `StageHook`.

        Returns:
            One result per frame, all with the timing of the clip.

        Raises:
            InvalidImageError, InvalidQueryError, DeadlineExceededError, and what the hook raises.
            ModelError: the model has no memory, or fails.
        """
        self._video_family()
        clock = StageClock(Deadline(deadline_s), on_stage)
        parsed = as_query(query)
        check_video_query(parsed)
        notes: list[str] = []
        clip = as_clip(frames, notes)
        parsed.validate(clip[0].image_hw)
        with self._exclusive(clock) as forward:
            results = video_forward.segment_clip(forward, clip, parsed, clock)
        return [result.with_notes(notes) for result in results]

    def session_nbytes(self, query: str | Query) -> int:
        """Return the most bytes that a session of a query will take, before it takes any.

        Raises:
            InvalidQueryError: it is neither text nor a query.
            ModelError: the model has no memory.
        """
        family, parsed = self._video_family(), as_query(query)
        named = (parsed.text, *parsed.thing_classes, *parsed.stuff_classes)
        texts = (*named, *census_names([parsed], self.config.calibration))
        regions = len(parsed.prompts) * self.config.sampler.tokens_per_region
        # A token stands for at least one byte; a condition has two tags and a few tokens around it.
        return family.session_nbytes(regions + sum(len(text.encode()) + 8 for text in texts))

    def _video_family(self) -> VideoFamily:
        family = self._open_forward().family.video
        if family is None:
            raise ModelError(
                f"{self.model_id} has no memory of earlier frames",
                hint="load X2SAM, or segment each frame and track the results (xsam.spatial.tracking)",
            )
        return family

    def _as_query_or_session(self, query: Any) -> Query | VideoSession:
        if not isinstance(query, VideoSession):
            return as_query(query)
        if query.engine is not self:
            raise InvalidQueryError("the session belongs to another engine")
        return query

    def _check_process(self) -> None:
        if os.getpid() != self._process_id:
            raise ModelError(
                "the model was loaded before this process was forked: PyTorch's threads did not come along",
                hint='load the model in the new process, and start it with multiprocessing\'s "spawn"',
            )

    def _open_forward(self) -> ForwardPass:
        if self._forward is None:
            raise ModelError("the model was closed", hint="load it again")
        return self._forward
