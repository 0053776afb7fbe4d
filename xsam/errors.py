"""All errors that the project raises on purpose.

::

    XSamError                          ERROR              code, message, hint, retryable
    ├── RequestRefusedError            REFUSED            understood and declined; nothing is broken
    │   ├── InvalidQueryError          INVALID_QUERY      empty text, prompt outside the image, …
    │   ├── InvalidOptionError         INVALID_OPTION     an option of `XSam.load`, a reader, … is not allowed
    │   ├── TrainingConfigError        TRAINING_CONFIG    a recipe is missing or invalid
    │   ├── InvalidImageError          INVALID_IMAGE      0×0, wrong dtype, unknown encoding, …
    │   ├── SourceError                SOURCE             a file, folder or camera gives no frames
    │   ├── CameraUnavailableError     CAMERA_UNAVAILABLE
    │   │   ├── UnknownCameraError     UNKNOWN_CAMERA     no camera of that name is configured
    │   │   ├── NoFrameError           NO_FRAME           the camera has not published yet
    │   │   └── StaleFrameError        STALE_FRAME        the newest frame is older than allowed
    │   ├── QueueFullError             QUEUE_FULL         too many requests are waiting
    │   ├── DeadlineExceededError      DEADLINE           time ran out before the result was ready
    │   ├── RequestCancelledError      CANCELLED          the caller canceled the request
    │   ├── NotActiveError             NOT_ACTIVE         the node is not in the active state
    │   ├── StreamTakenError           STREAM_TAKEN       another owner has the stream of the camera
    │   ├── StreamEndedError           STREAM_ENDED       the stream has ended; `reason` says why
    │   ├── SegmenterUnavailableError  UNAVAILABLE        no segmenter responds (service not found)
    │   │   └── LinkDownError          LINK_DOWN          the server cannot be reached, or the link broke
    │   │       └── ReplicaLostError   REPLICA_LOST       the replica that had the request has ended
    │   ├── FrameNotKeptError          FRAME_NOT_KEPT     the server no longer has the frame of this id
    │   ├── RequestTooLargeError       TOO_LARGE          more bytes, pixels or queries than the server takes
    │   ├── RateLimitError             RATE_LIMITED       the client sends more than its token allows
    │   ├── UnauthorizedError          UNAUTHORIZED       the token is missing or wrong
    │   └── WrongModelError            WRONG_MODEL        the server holds another model than was asked for
    ├── ModelError                     MODEL_ERROR        inference failed
    │   └── OutOfMemoryError           OUT_OF_MEMORY
    ├── CheckpointError                CHECKPOINT         weights, config or tokenizer do not match
    ├── DownloadError                  DOWNLOAD           downloading released files failed
    └── DatasetError                   DATASET            damaged file, nothing to read
        ├── MissingDataError           DATASET_MISSING    a file or folder is missing
        └── RecordError                DATASET_RECORD     one record of a file is malformed

If only one query of a request is refused or fails, its `SegmentationResult` has that status. An error is
raised if it affects the whole request (no frame, queue full, deadline …). `error_for_code` converts the code
in a message back to the exception.
"""

from __future__ import annotations

from typing import ClassVar


class XSamError(Exception):
    """Base of all errors: a stable `code`, a message, a hint what to do, and whether a retry may help."""

    code: ClassVar[str] = "ERROR"
    default_hint: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class RequestRefusedError(XSamError):
    """The request was understood and declined; nothing is broken."""

    code = "REFUSED"


class InvalidQueryError(RequestRefusedError):
    """The query is invalid: empty text, too many categories, prompt outside the image."""

    code = "INVALID_QUERY"


class InvalidOptionError(RequestRefusedError, ValueError):
    """An option has a value that is not allowed, or that this machine cannot satisfy."""

    code = "INVALID_OPTION"


class TrainingConfigError(RequestRefusedError):
    """A recipe of a training stage is missing or invalid."""

    code = "TRAINING_CONFIG"


class InvalidImageError(RequestRefusedError):
    """The image cannot be used: no pixels, wrong dtype or shape, unknown encoding, too large."""

    code = "INVALID_IMAGE"


class SourceError(RequestRefusedError):
    """A source of frames cannot be opened: missing, empty, of an unknown kind, or without pictures in it."""

    code = "SOURCE"


class CameraUnavailableError(RequestRefusedError):
    """The camera cannot deliver a usable frame."""

    code = "CAMERA_UNAVAILABLE"
    retryable = True


class UnknownCameraError(CameraUnavailableError):
    """No camera of that name is configured."""

    code = "UNKNOWN_CAMERA"
    retryable = False


class NoFrameError(CameraUnavailableError):
    """The camera is configured, but no frame has arrived yet."""

    code = "NO_FRAME"
    default_hint = "check that the camera driver runs and that its QoS is compatible"


class StaleFrameError(CameraUnavailableError):
    """The newest frame is older than the request allows."""

    code = "STALE_FRAME"
    default_hint = "check that the camera still publishes, or allow an older frame"


class QueueFullError(RequestRefusedError):
    """Too many requests are waiting for the model."""

    code = "QUEUE_FULL"
    default_hint = "retry later or send fewer requests at a time"
    retryable = True


class DeadlineExceededError(RequestRefusedError):
    """Time ran out before the result was ready."""

    code = "DEADLINE"
    default_hint = "allow a longer deadline"
    retryable = True


class RequestCancelledError(RequestRefusedError):
    """The caller canceled the request."""

    code = "CANCELLED"


class NotActiveError(RequestRefusedError):
    """The segmenter node is not in its active lifecycle state."""

    code = "NOT_ACTIVE"
    default_hint = "configure and activate the node first"
    retryable = True


class StreamTakenError(RequestRefusedError):
    """The camera has a stream of another owner."""

    code = "STREAM_TAKEN"
    default_hint = "read its results, wait until it has ended, or set replace: its owner will be told"
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, owner: str = "") -> None:
        super().__init__(message, hint=hint)
        self.owner = owner  # who has the stream; "" = anonymous


class StreamEndedError(RequestRefusedError):
    """The stream has ended."""

    code = "STREAM_ENDED"
    default_hint = "start it again if it is still needed"
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason  # STOPPED, REPLACED, LEASE_EXPIRED, DEACTIVATED, FAILED or NODE_LOST


class SegmenterUnavailableError(RequestRefusedError):
    """No segmenter responds under the given name."""

    code = "UNAVAILABLE"
    default_hint = "check that the segmenter node runs in the same ROS domain"
    retryable = True


class LinkDownError(SegmenterUnavailableError):
    """The server cannot be reached, or the connection broke before it answered."""

    code = "LINK_DOWN"
    default_hint = "check that the server runs (xsam serve) and that the network reaches it"


class ReplicaLostError(LinkDownError):
    """One of several servers behind an address ended while it had the request; the others go on."""

    code = "REPLICA_LOST"
    default_hint = "ask again: another replica will answer"


class FrameNotKeptError(RequestRefusedError):
    """The server has no frame of this id: it never had, or dropped it for its age or to make room."""

    code = "FRAME_NOT_KEPT"
    default_hint = "send the image again"
    retryable = True


class RequestTooLargeError(RequestRefusedError):
    """The request has more bytes, pixels or queries than the server takes."""

    code = "TOO_LARGE"
    default_hint = "send a smaller image or fewer queries"


class RateLimitError(RequestRefusedError):
    """The client sends more requests than its token allows."""

    code = "RATE_LIMITED"
    default_hint = "send fewer requests, or have the limit of the token raised"
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s  # when the next request will be accepted


class UnauthorizedError(RequestRefusedError):
    """The token is missing, or the server does not know it."""

    code = "UNAUTHORIZED"
    default_hint = "send the header 'Authorization: Bearer TOKEN' with a token of the server's token file"


class WrongModelError(RequestRefusedError):
    """The server holds another model than the one that was asked for."""

    code = "WRONG_MODEL"
    default_hint = "ask for the model that the server has, or start the server with the other one"


class ModelError(XSamError):
    """Inference failed; the request was fine."""

    code = "MODEL_ERROR"


class OutOfMemoryError(ModelError):
    """The device ran out of memory."""

    code = "OUT_OF_MEMORY"
    default_hint = "send fewer queries at a time, or load the model in a smaller dtype"
    retryable = True


class CheckpointError(XSamError):
    """Weights, configuration or tokenizer are missing or damaged, or do not belong together."""

    code = "CHECKPOINT"


class DownloadError(XSamError):
    """Downloading released files failed."""

    code = "DOWNLOAD"
    default_hint = "check the network connection and run the command again: it resumes"
    retryable = True


class DatasetError(XSamError):
    """A data set cannot be read: damaged file, nothing usable in it."""

    code = "DATASET"


class MissingDataError(DatasetError):
    """A file or folder of a data set is missing."""

    code = "DATASET_MISSING"


class RecordError(DatasetError):
    """A record of a data set is malformed; the message names the file and the record."""

    code = "DATASET_RECORD"


def _with_subclasses(cls: type[XSamError]) -> list[type[XSamError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in _with_subclasses(child))]


_CLASS_BY_CODE = {cls.code: cls for cls in _with_subclasses(XSamError)}
REFUSAL_CODES = frozenset(cls.code for cls in _with_subclasses(RequestRefusedError))


def error_for_code(code: str, message: str, *, hint: str | None = None) -> XSamError:
    """Create the exception that belongs to `code`; an unknown code gives a plain `XSamError`."""
    return _CLASS_BY_CODE.get(code, XSamError)(message, hint=hint)
