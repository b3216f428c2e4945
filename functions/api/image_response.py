"""A task's picture, as a web server gives a file: type, ETag, ranges, caching for ever."""

import re
from dataclasses import dataclass

from functions.status.status import Known
from tasks.errors import ImageNotReady, NoImage, RangeNotSatisfiable, UnknownImage
from tasks.events import StoredImage
from tasks.ports import ImageStore

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
CACHING = "private, max-age=31536000, immutable"
"""A picture never changes; who may see it is the caller's affair, so shared caches keep out."""


@dataclass(frozen=True)
class ImageAnswer:
    """What to send."""

    status: int
    headers: dict[str, str]
    body: bytes


def pick(known: Known, index: int) -> StoredImage:
    """The picture of this index. Raises ImageNotReady, NoImage, UnknownImage."""
    if not known.state.ended:
        raise ImageNotReady(f"The task is {known.state.status}.")
    images = known.outcome.images if known.outcome else ()
    if not images:
        said = known.outcome.error.message if known.outcome and known.outcome.error else ""
        raise NoImage(f"The task is {known.state.status}. {said}".strip())
    if not 0 <= index < len(images):
        raise UnknownImage(f"The task has pictures 0 to {len(images) - 1}.", field="index")
    return images[index]


async def give(
    store: ImageStore, image: StoredImage, *, if_none_match: str = "", range_header: str = "", if_range: str = ""
) -> ImageAnswer:
    """The answer to a request for the picture. Raises RangeNotSatisfiable, StoreUnavailable, UnknownImage."""
    etag = f'"{image.sha256}"'
    headers = {
        "Content-Type": image.content_type,
        "ETag": etag,
        "Cache-Control": CACHING,
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
    }
    if if_none_match.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(",")):
        return ImageAnswer(304, headers, b"")
    wanted = _range(range_header, image.size) if if_range in ("", etag) else None
    body = await store.get_image(image.key, wanted)
    if wanted is None:
        return ImageAnswer(200, headers, body)
    headers["Content-Range"] = f"bytes {wanted[0]}-{wanted[1]}/{image.size}"
    return ImageAnswer(206, headers, body)


def _range(header: str, size: int) -> tuple[int, int] | None:
    """The first and last byte asked for; None: all (no range, several, or one in a unit we do not know)."""
    match = _RANGE.match(header.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if len(first) > 19 or len(last) > 19:
        raise RangeNotSatisfiable(f"The picture has {size} bytes.")
    if not first:
        start, end = max(0, size - int(last)), size - 1
        if int(last) == 0:
            raise RangeNotSatisfiable(f"The picture has {size} bytes.")
        return start, end
    start, end = int(first), min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(f"The picture has {size} bytes.")
    return start, end
