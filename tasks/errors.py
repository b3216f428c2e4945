"""The catalogue of errors: code, sentence, HTTP status, and whether another attempt can help.

The class docstring is the sentence that the user reads, and docs/errors.md is generated from it. `detail` is the
sentence for one case.
"""

import re
from typing import ClassVar, Literal

Retry = Literal["never", "later", "uncounted"]
"""never: the same task would fail again. later: another attempt may succeed. uncounted: the task is queued again and
the attempt does not count as a try, because it says nothing about the task."""


class TaskError(Exception):
    """The base of every error that a user may read."""

    status: ClassVar[int] = 500
    retry: ClassVar[Retry] = "never"

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


class MalformedBody(TaskError):
    """The body is not one JSON object in UTF-8 with unique keys, finite numbers and limited nesting."""

    status = 400


class UnsupportedMediaType(TaskError):
    """The body must be sent as application/json."""

    status = 415


class NotAcceptable(TaskError):
    """The service can give none of the types that Accept names."""

    status = 406


class BodyTooLarge(TaskError):
    """The request body is larger than the limit."""

    status = 413


class InvalidRequest(TaskError):
    """A field of the request has a value that is not allowed."""

    status = 422


class UnknownModel(TaskError):
    """There is no model with this name."""

    status = 422


class UnknownLane(TaskError):
    """There is no lane with this name."""

    status = 422


class UnknownLora(TaskError):
    """The model has no LoRA with this name."""

    status = 422


class UnknownScheduler(TaskError):
    """The model cannot use this scheduler."""

    status = 422


class SizeNotSupported(TaskError):
    """The model cannot make an image of this size."""

    status = 422


class TooManySteps(TaskError):
    """The request asks for more steps than the model allows."""

    status = 422


class PromptTooLong(TaskError):
    """The prompt is longer than the model allows."""

    status = 422


class TooManyImages(TaskError):
    """The request asks for more images than the model makes in one task."""

    status = 422


class NegativePromptNotSupported(TaskError):
    """The model takes no negative prompt."""

    status = 422


class IdempotencyKeyReused(TaskError):
    """This Idempotency-Key was already used with another body."""

    status = 422


class KeyInUrl(TaskError):
    """An API key was sent in the URL, where logs and histories keep it. Make a new one, withdraw this one, and send it
    as `Authorization: Bearer` or `X-API-Key`."""

    status = 400


class Unauthorized(TaskError):
    """An API key is needed, as `Authorization: Bearer` or `X-API-Key`."""

    status = 401


class NotAllowedByKey(TaskError):
    """The API key does not allow this."""

    status = 403


class UserQueueFull(TaskError):
    """You have as many tasks queued as one user may. Send the request again when some of them have been started."""

    status = 429
    retry = "later"


class QueueFull(TaskError):
    """The queue holds as many tasks as the service accepts. Send the request again a little later."""

    status = 429
    retry = "later"


class NotFound(TaskError):
    """There is nothing at this address."""

    status = 404


class MethodNotAllowed(TaskError):
    """This address does not take this method."""

    status = 405


class UnknownTask(TaskError):
    """There is no task with this id."""

    status = 404


class UnknownImage(TaskError):
    """The task has no image with this index."""

    status = 404


class ImageNotReady(TaskError):
    """The task has not ended yet, so it has no image."""

    status = 409


class NoPreview(TaskError):
    """The task has no preview: none was asked for, none has been drawn yet, or the task no longer runs."""

    status = 404


class AlreadyEnded(TaskError):
    """The task has already ended, so it cannot be canceled."""

    status = 409


class NoImage(TaskError):
    """The task ended without an image, so it will never have one."""

    status = 410


class RangeNotSatisfiable(TaskError):
    """The Range header asks for bytes that the image does not have."""

    status = 416


class QueueUnavailable(TaskError):
    """The queue (Kafka) cannot be reached now. Send the same request again, with the same Idempotency-Key if it had
    one: the task may or may not have been queued."""

    status = 503
    retry = "later"


class StoreUnavailable(TaskError):
    """The image store (S3) cannot be reached now. Nothing is lost; ask again."""

    status = 503
    retry = "later"


class StartingUp(TaskError):
    """The service is still reading the queue from where it left off. Ask again in a moment."""

    status = 503
    retry = "later"


class Canceled(TaskError):
    """The task was canceled."""

    status = 410


class StartedTooLate(TaskError):
    """The task was not started within the time the caller gave it (start_within), so it was dropped."""

    status = 410


class RanTooLong(TaskError):
    """The task ran longer than its max_runtime and was stopped."""

    status = 410


class NotUnderstood(TaskError):
    """The task was written by a newer version and needs something that no consumer understood in time."""

    status = 422


class InputMissing(TaskError):
    """An input of the task is no longer in the store."""

    status = 410


class RunnerBusy(TaskError):
    """The runner has no room for another task just now."""

    status = 429
    retry = "uncounted"


class RunnerLoading(TaskError):
    """The runner is still loading its model, or is shutting down."""

    status = 503
    retry = "uncounted"


class RunnerUnavailable(TaskError):
    """The runner could not be reached, so it never accepted the task."""

    status = 503
    retry = "uncounted"


class TakenOver(TaskError):
    """Another consumer took the task over, so this attempt was stopped."""

    status = 503
    retry = "uncounted"


class RunnerLost(TaskError):
    """The runner stopped answering while it worked on the task."""

    status = 502
    retry = "later"


class OutOfMemory(TaskError):
    """The GPU ran out of memory while it made the image."""

    status = 500
    retry = "later"


class GenerationFailed(TaskError):
    """The model failed while it made the image."""

    status = 500
    retry = "later"


class BrokenPicture(TaskError):
    """The model produced numbers that are not an image (NaN). Another seed, size or scheduler may help."""

    status = 500


class LoraUnusable(TaskError):
    """The LoRA could not be applied to the model."""

    status = 500


class WorkerFailed(TaskError):
    """The service had an internal error while it worked on the task."""

    status = 500
    retry = "later"


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
