"""The images of a task: which one has an index, and its bytes, checked against the outcome that names it."""

import asyncio
import hashlib

from functions.status.document import TaskSnapshot
from tasks.errors import ImageNotReady, NoImage, UnknownImage, UntrustedOutcome
from tasks.events import StoredImage
from tasks.outcome_json import contradiction
from tasks.ports import ImageStore

_QUICK_BYTES = 256 * 1024
"""Up to this size the hash takes less time than handing it to a thread."""


def image_of(snapshot: TaskSnapshot, index: int = 0) -> StoredImage:
    """The task's image of this index. Raises ImageNotReady, NoImage, UnknownImage, UntrustedOutcome."""
    status, outcome = snapshot.state.status, snapshot.outcome
    if not snapshot.state.ended:
        raise ImageNotReady(f"The task is {status}.")
    if outcome is not None and contradiction(outcome):
        raise UntrustedOutcome
    images = outcome.images if outcome else ()
    if not images:
        reason = outcome.error.message if outcome and outcome.error else ""
        raise NoImage(f"The task is {status}. {reason}".strip())
    if not 0 <= index < len(images):
        raise UnknownImage(f"The task has images 0 to {len(images) - 1}.", field="index")
    return images[index]


async def read_image(store: ImageStore, image: StoredImage) -> bytes:
    """The image's bytes. Raises StoreUnavailable, UnknownImage if there is no such object, and UntrustedOutcome if the
    object is not the one that the outcome describes."""
    data = await store.get_image(image.key)
    if len(data) != image.size or await _sha256(data) != image.sha256:
        raise UntrustedOutcome
    return data


async def _sha256(data: bytes) -> str:
    digest = hashlib.sha256(data) if len(data) <= _QUICK_BYTES else await asyncio.to_thread(hashlib.sha256, data)
    return digest.hexdigest()
