"""The images of a task: which one has an index, and its bytes, checked against the outcome that names it."""

import asyncio
import hashlib
from collections import OrderedDict

from functions.status.document import TaskSnapshot
from tasks.errors import ImageNotReady, NoImage, UnknownImage, UntrustedOutcome
from tasks.events import StoredImage
from tasks.outcome_json import contradiction
from tasks.ports import ImageStore

_QUICK_BYTES = 256 * 1024
"""Up to this size the hash takes less time than handing it to a thread."""
_COMPARED_AT_ONCE = 8
_REMEMBERED = 10_000
"""Images whose comparison is remembered."""


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


class Images:
    """Reads images from the store. No byte of an image is given out before the whole image was compared once with the
    hash that its outcome records."""

    def __init__(self, store: ImageStore) -> None:
        """No image was compared yet."""
        self._store = store
        self._compared: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._comparing = asyncio.Semaphore(_COMPARED_AT_ONCE)

    async def read(self, image: StoredImage, first: int = 0, last: int | None = None) -> bytes:
        """The bytes from `first` to `last`, both included; None: to the end.

        Raises StoreUnavailable, UnknownImage if there is no such object, and UntrustedOutcome if the object is not the
        one that the outcome describes.
        """
        last = image.size - 1 if last is None else last
        if (image.key, image.sha256) not in self._compared:
            return (await self._compare(image))[first : last + 1]
        piece = await self._store.get_image(image.key, (first, last)) if first <= last else b""
        if len(piece) != last - first + 1:
            raise UntrustedOutcome
        return piece

    async def _compare(self, image: StoredImage) -> bytes:
        """The whole image, whose hash was compared. A few at once, because they are held in memory."""
        async with self._comparing:
            data = await self._store.get_image(image.key)
            if len(data) != image.size or await _sha256(data) != image.sha256:
                raise UntrustedOutcome
        self._compared[image.key, image.sha256] = None
        if len(self._compared) > _REMEMBERED:
            self._compared.popitem(last=False)
        return data


async def _sha256(data: bytes) -> str:
    digest = hashlib.sha256(data) if len(data) <= _QUICK_BYTES else await asyncio.to_thread(hashlib.sha256, data)
    return digest.hexdigest()
