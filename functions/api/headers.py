"""The headers of a request: `Prefer: wait=N` (RFC 7240), `Accept` (RFC 9110), and headers in several lines."""

import re
from collections.abc import Iterable

from starlette.datastructures import Headers

from tasks.errors import InvalidRequest, NotAcceptable

_WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,6})\"?$", re.IGNORECASE)
JSON = "application/json"


def joined(headers: Headers, name: str) -> str:
    """A list header; its lines are joined into one list."""
    return ", ".join(headers.getlist(name))


def single(headers: Headers, name: str) -> str | None:
    """A header with one value. Raises InvalidRequest if it is sent twice."""
    lines = headers.getlist(name)
    if len(lines) > 1:
        raise InvalidRequest(f"{name} must be sent once.", field=name)
    return lines[0] if lines else None


def wait_seconds(prefer: str, limit: float) -> float | None:
    """Seconds that the client wants to wait, at most `limit`; None if it does not want to. Unknown
    preferences are ignored, as the RFC requires."""
    for part in re.split(r"[,;]", prefer):
        if match := _WAIT.match(part.strip()):
            return min(float(match.group(1)), limit)
    return None


def accepted_types(accept: str) -> list[tuple[str, float]]:
    """The media ranges of an Accept header with their weights; an empty one accepts all."""
    ranges = []
    for part in accept.split(","):
        media, *params = (piece.strip().lower() for piece in part.split(";"))
        if not media:
            continue
        weight = 1.0
        for param in params:
            name, _, value = param.partition("=")
            if name.strip() == "q":
                weight = _weight(value)
        ranges.append((media, weight))
    return ranges or [("*/*", 1.0)]


def _weight(value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def weight_of(media: str, accepted: Iterable[tuple[str, float]]) -> float:
    """The weight that the client gives this type: that of the most specific range that covers it; 0: not acceptable."""
    best = (-1, 0.0)
    for media_range, weight in accepted:
        if media_range == media:
            best = max(best, (2, weight))
        elif media_range.endswith("/*") and media_range != "*/*" and media.startswith(media_range[:-1]):
            best = max(best, (1, weight))
        elif media_range == "*/*":
            best = max(best, (0, weight))
    return best[1]


def wants_image(accept: str, content_type: str) -> bool:
    """Whether a wait that ends with the task is answered by the image itself. Raises NotAcceptable if the client
    accepts neither this type nor JSON."""
    accepted = accepted_types(accept)
    image, document = weight_of(content_type, accepted), weight_of(JSON, accepted)
    if image == document == 0:
        raise NotAcceptable(
            f"The image will be {content_type}, and the request accepts {accept}.",
            field="Accept",
            allowed=[content_type, JSON],
        )
    named = any(media.startswith("image/") for media, weight in accepted if weight)
    return named and image >= document
