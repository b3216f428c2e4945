"""An image in pieces: a client that does not read costs the gateway a piece, not the image."""

from collections.abc import AsyncIterator

from functions.api.gateway import Gateway
from tasks.errors import UnknownImage
from tasks.events import StoredImage

PIECE_BYTES = 256 * 1024
"""Bytes that one request of the store reads. Most images are one to eight pieces."""
_SEND_BYTES = 64 * 1024
"""Bytes that the server takes at once: it waits for the client as soon as so many are unsent."""


async def image_pieces(gateway: Gateway, image: StoredImage, first: int, last: int) -> AsyncIterator[bytes]:
    """The bytes from `first` to `last`, both included. The next piece is read when the client has taken the one before.

    Raises StoreUnavailable, and UnknownImage if the object is missing or shorter than the image.
    """
    while first <= last:
        end = min(last, first + PIECE_BYTES - 1)
        piece = await gateway.read_image(image, (first, end))
        if len(piece) != end - first + 1:
            raise UnknownImage
        for start in range(0, len(piece), _SEND_BYTES):
            yield piece[start : start + _SEND_BYTES]
        first = end + 1
