"""The catalogue of errors: code, sentence, HTTP status, and whether another attempt can help.

The class docstring is the sentence that the user reads, and docs/errors.md is generated from it. `detail` is the
sentence for one case.
"""

import re
from typing import ClassVar, Literal

Retry = Literal["never", "later", "uncounted"]
"""never: the same task would fail again. later: another attempt may succeed. uncounted: the task is queued again and
the attempt does not count as a try, because it says nothing about the task."""


BROWSER_RULES = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "frame-ancestors 'none'"}
"""Headers of every problem document, and of every other answer that has no stricter ones: it is what its type says, and
no page may show it in a frame."""


class TaskError(Exception):
    """The base of every error that a user may read."""

    status: ClassVar[int] = 500
    retry: ClassVar[Retry] = "never"

    def __init_subclass__(cls, *, status: int | None = None, retry: Retry | None = None) -> None:
        """`status`: of HTTP; what is not given is inherited."""
        super().__init_subclass__()
        cls.status, cls.retry = status or cls.status, retry or cls.retry

    def __init__(
        self,
        detail: str = "",
        *,
        field: str | None = None,
        allowed: list[str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """`detail` is one sentence, by default the title; `field` is a dotted path into the request; `allowed` lists
        the values that would have been accepted; `retry_after` is in seconds."""
        super().__init__(detail or self.title())
        self.detail = detail or self.title()
        self.field = field
        self.allowed = allowed
        self.retry_after = retry_after

    @classmethod
    def code(cls) -> str:
        """The stable, machine-readable name: the class name in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def title(cls) -> str:
        """The sentence every user of this error reads: the first paragraph of the docstring."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())

    def problem(self, instance: str = "") -> dict[str, object]:
        """This error as an RFC 9457 problem document."""
        fields: dict[str, object] = {
            "type": f"/docs/errors#{self.code()}",
            "title": self.title(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code(),
        }
        if instance:
            fields["instance"] = instance
        if self.field is not None:
            fields["field"] = self.field
        if self.allowed is not None:
            fields["allowed"] = self.allowed
        return fields


class MalformedBody(TaskError, status=400):
    """The body is not one JSON object in UTF-8 with unique keys, finite numbers and limited nesting."""


class UnsupportedMediaType(TaskError, status=415):
    """The body must be sent as application/json."""


class NotAcceptable(TaskError, status=406):
    """The service can give none of the types that Accept names."""


class BodyTooLarge(TaskError, status=413):
    """The request body is larger than the limit."""


class InvalidRequest(TaskError, status=422):
    """A field of the request has a value that is not allowed."""


class UnknownModel(TaskError, status=422):
    """There is no model with this name."""


class UnknownLane(TaskError, status=422):
    """There is no lane with this name."""


class UnknownLora(TaskError, status=422):
    """The model has no LoRA with this name."""


class UnknownScheduler(TaskError, status=422):
    """The model cannot use this scheduler."""


class SizeNotSupported(TaskError, status=422):
    """The model cannot make an image of this size."""


class TooManySteps(TaskError, status=422):
    """The request asks for more steps than the model allows."""


class PromptTooLong(TaskError, status=422):
    """The prompt is longer than the model allows."""


class TooManyImages(TaskError, status=422):
    """The request asks for more images than the model makes in one task."""


class NegativePromptNotSupported(TaskError, status=422):
    """The model takes no negative prompt."""


class IdempotencyKeyReused(TaskError, status=422):
    """This Idempotency-Key was already used with another body."""


class UnknownHost(TaskError, status=421):
    """The service is not reached under the host name that the request gives. Its setting ALLOWED_HOSTS says under which
    it is."""


class KeyInUrl(TaskError, status=400):
    """An API key was sent in the URL, where logs and histories keep it. Make a new one, withdraw this one, and send it
    as `Authorization: Bearer` or `X-API-Key`."""


class Unauthorized(TaskError, status=401):
    """An API key is needed, as `Authorization: Bearer` or `X-API-Key`."""


class NotAllowedByKey(TaskError, status=403):
    """The API key does not allow this."""


class UserQueueFull(TaskError, status=429, retry="later"):
    """You have as many tasks queued as one user may. Send the request again when some of them have been started."""


class QueueFull(TaskError, status=429, retry="later"):
    """The queue holds as many tasks as the service accepts. Send the request again a little later."""


class TooManyConnections(TaskError, status=429, retry="later"):
    """This client already has as many requests open as one client may. Send the request again when one has ended."""


class TooManyStreams(TaskError, status=429, retry="later"):
    """This client already listens to as many event streams as one client may."""


class TooManyWaits(TaskError, status=429, retry="later"):
    """This client already has as many requests waiting for a task as one client may. Ask for the status instead."""


class TooManyUnknownIds(TaskError, status=429, retry="later"):
    """This client has asked for too many unknown task ids in this second."""


class GatewayFull(TaskError, status=503, retry="later"):
    """The gateway has as many requests open as it can hold. Send the request again a little later."""


class NotFound(TaskError, status=404):
    """There is nothing at this address."""


class MethodNotAllowed(TaskError, status=405):
    """This address does not take this method."""


class UnknownTask(TaskError, status=404):
    """There is no task with this id."""


class UnknownImage(TaskError, status=404):
    """The task has no image with this index."""


class ImageNotReady(TaskError, status=409):
    """The task has not ended yet, so it has no image."""


class NoPreview(TaskError, status=404):
    """The task has no preview: none was asked for, none has been drawn yet, or the task no longer runs."""


class AlreadyEnded(TaskError, status=409):
    """The task has already ended, so it cannot be canceled."""


class NoImage(TaskError, status=410):
    """The task ended without an image, so it will never have one."""


class UntrustedOutcome(TaskError, status=410):
    """What is recorded as the end of the task cannot come from the service, so nothing of it is served. Submit the task
    again."""


class RangeNotSatisfiable(TaskError, status=416):
    """The Range header asks for bytes that the image does not have."""


class QueueUnavailable(TaskError, status=503, retry="later"):
    """The queue (Kafka) cannot be reached now. Send the same request again, with the same Idempotency-Key if it had
    one: the task may or may not have been queued."""


class StoreUnavailable(TaskError, status=503, retry="later"):
    """The image store (S3) cannot be reached now. Nothing is lost; ask again."""


class StartingUp(TaskError, status=503, retry="later"):
    """The service is still reading the queue from where it left off. Ask again in a moment."""


class Canceled(TaskError, status=410):
    """The task was canceled."""


class StartedTooLate(TaskError, status=410):
    """The task was not started within the time the caller gave it (start_within), so it was dropped."""


class RanTooLong(TaskError, status=410):
    """The task ran longer than its max_runtime and was stopped."""


class NotUnderstood(TaskError, status=422):
    """The task was written by a newer version and needs something that no consumer understood in time."""


class InputMissing(TaskError, status=410):
    """An input of the task is no longer in the store."""


class CallerRefused(TaskError, status=403):
    """A runner takes requests of its consumers alone."""


class RunnerBusy(TaskError, status=429, retry="uncounted"):
    """The runner has no room for another task just now."""


class RunnerLoading(TaskError, status=503, retry="uncounted"):
    """The runner is still loading its model, or is shutting down."""


class RunnerUnavailable(TaskError, status=503, retry="uncounted"):
    """The runner could not be reached, so it never accepted the task."""


class TakenOver(TaskError, status=503, retry="uncounted"):
    """Another consumer took the task over, so this attempt was stopped."""


class RunnerLost(TaskError, status=502, retry="later"):
    """The runner stopped answering while it worked on the task."""


class OutOfMemory(TaskError, status=500, retry="later"):
    """The GPU ran out of memory while it made the image."""


class GenerationFailed(TaskError, status=500, retry="later"):
    """The model failed while it made the image."""


class BrokenPicture(TaskError, status=500):
    """The model produced numbers that are not an image (NaN). Another seed, size or scheduler may help."""


class LoraUnusable(TaskError, status=500):
    """The LoRA could not be applied to the model."""


class WorkerFailed(TaskError, status=500, retry="later"):
    """The service had an internal error while it worked on the task."""


def _all(cls: type[TaskError]) -> dict[str, type[TaskError]]:
    errors = {}
    for sub in cls.__subclasses__():
        errors[sub.code()] = sub
        errors |= _all(sub)
    return errors


ERRORS: dict[str, type[TaskError]] = _all(TaskError)
"""Every error by its code."""


def from_code(code: str, detail: str) -> TaskError:
    """The error that a runner or a record names. A code that this version does not know becomes `generation_failed`,
    with its own code in the sentence."""
    error = ERRORS.get(code)
    return error(detail) if error else GenerationFailed(f"{code}: {detail}")
