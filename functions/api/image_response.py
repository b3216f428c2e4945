"""A task's image, answered as a web server answers a file: media type, ETag, ranges, cached for ever."""

import re

from fastapi import Response
from fastapi.responses import StreamingResponse

from functions.api.gateway import Gateway
from functions.api.image_pieces import image_pieces
from tasks.errors import RangeNotSatisfiable
from tasks.events import StoredImage
from tasks.object_keys import media_type

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
INERT = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}
"""The headers of every picture. A browser that is led to its address takes it for what its type says and runs nothing
in it, whatever the bytes are."""
CACHING = "private, max-age=31536000, immutable"
"""An image never changes. Only its owner may see it, so shared caches must not keep it."""


async def image_response(
    gateway: Gateway,
    image: StoredImage,
    *,
    head: bool = False,
    if_none_match: str = "",
    range_header: str = "",
    if_range: str = "",
) -> Response:
    """The answer to a request for the image; `head`: to a HEAD request, for which the store is not asked.

    Raises RangeNotSatisfiable, StoreUnavailable, UnknownImage, UntrustedOutcome.
    """
    etag = f'"{image.sha256}"'
    headers = {
        "Content-Type": media_type(image.key),
        "ETag": etag,
        "Cache-Control": CACHING,
        "Accept-Ranges": "bytes",
        **INERT,
    }
    if if_none_match.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(",")):
        return Response(b"", 304, headers)
    byte_range = _range(range_header, image.size) if if_range in ("", etag) else None
    status, (first, last) = (200, (0, image.size - 1)) if byte_range is None else (206, byte_range)
    headers["Content-Length"] = str(last - first + 1)
    if byte_range is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{image.size}"
    if head:
        return Response(b"", status, headers)
    pieces = image_pieces(gateway, image, first, last)
    await anext(pieces)  # before the answer begins, so that an error is an answer of its own
    return StreamingResponse(pieces, status, headers)


def _range(header: str, size: int) -> tuple[int, int] | None:
    """The first and the last byte of the range; None for the whole image: no range, several, or an unknown unit.

    Raises RangeNotSatisfiable.
    """
    match = _RANGE.match(header.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if len(first) > 19 or len(last) > 19:
        raise RangeNotSatisfiable(f"The image has {size} bytes.")
    if not first:
        start, end = max(0, size - int(last)), size - 1
        if int(last) == 0:
            raise RangeNotSatisfiable(f"The image has {size} bytes.")
        return start, end
    start, end = int(first), min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(f"The image has {size} bytes.")
    return start, end
