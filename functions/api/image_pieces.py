"""An image in pieces: a client that does not read costs the gateway a piece, not the image."""

from collections.abc import AsyncIterator

from functions.api.gateway import Gateway
from tasks.events import StoredImage

PIECE_BYTES = 256 * 1024
"""Bytes that one request of the store reads, and that an unread image takes. Most images are one to eight pieces."""


async def image_pieces(gateway: Gateway, image: StoredImage, first: int, last: int) -> AsyncIterator[bytes]:
    """The bytes from `first` to `last`, both included, with an empty piece before each other one.

    The first empty piece comes when the first bytes have been read, so that an error can be answered. The server takes
    each further empty piece when the client has read most of what was sent; only then more is read, and nothing is
    held here meanwhile. Raises StoreUnavailable, UnknownImage, UntrustedOutcome.
    """
    piece = await _read(gateway, image, first, last)
    yield b""
    while True:
        first += len(piece)
        yield piece
        if first > last:
            return
        del piece
        yield b""
        piece = await _read(gateway, image, first, last)


async def _read(gateway: Gateway, image: StoredImage, first: int, last: int) -> bytes:
    return await gateway.read_image(image, first, min(last, first + PIECE_BYTES - 1))
