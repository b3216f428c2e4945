"""What a caller's headers say: `Prefer: wait=N` (RFC 7240), `Accept` (RFC 9110), `traceparent` (W3C Trace Context)."""

import re
from collections.abc import Iterable, Mapping

from starlette.datastructures import Headers

from tasks.errors import InvalidRequest, NotAcceptable

_WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,6})\"?$", re.IGNORECASE)
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
JSON = "application/json"


def joined(headers: Headers, name: str) -> str:
    """The header that may come in several lines, as the one list that they are."""
    return ", ".join(headers.getlist(name))


def single(headers: Headers, name: str) -> str | None:
    """The header that says one thing. Raises InvalidRequest where it comes twice."""
    lines = headers.getlist(name)
    if len(lines) > 1:
        raise InvalidRequest(f"{name} must come once.", field=name)
    return lines[0] if lines else None


def wait_seconds(prefer: str, limit: float) -> float | None:
    """How long the caller wants to wait, at most `limit`; None: not at all. What is not understood is ignored, as the
    RFC has it."""
    for part in re.split(r"[,;]", prefer):
        if match := _WAIT.match(part.strip()):
            return min(float(match.group(1)), limit)
    return None


def accepted_types(accept: str) -> list[tuple[str, float]]:
    """The media ranges of an Accept header with their weights; an empty one accepts all."""
    found = []
    for part in accept.split(","):
        media, *params = (piece.strip().lower() for piece in part.split(";"))
        if not media:
            continue
        weight = 1.0
        for param in params:
            name, _, value = param.partition("=")
            if name.strip() == "q":
                weight = _weight(value)
        found.append((media, weight))
    return found or [("*/*", 1.0)]


def _weight(value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def weight_of(media: str, accepted: Iterable[tuple[str, float]]) -> float:
    """The weight the caller gives this type: that of the most specific range that covers it; 0: not acceptable."""
    best = (-1, 0.0)
    for wanted, weight in accepted:
        if wanted == media:
            best = max(best, (2, weight))
        elif wanted.endswith("/*") and wanted != "*/*" and media.startswith(wanted[:-1]):
            best = max(best, (1, weight))
        elif wanted == "*/*":
            best = max(best, (0, weight))
    return best[1]


def wants_image(accept: str, content_type: str) -> bool:
    """Whether a finished wait is answered with the picture. Raises NotAcceptable where the caller takes pictures, but
    not of this type, and no JSON either."""
    accepted = accepted_types(accept)
    image, document = weight_of(content_type, accepted), weight_of(JSON, accepted)
    if image == document == 0:
        raise NotAcceptable(
            f"The picture will be {content_type}, and you accept {accept}.",
            field="Accept",
            allowed=[content_type, JSON],
        )
    named = any(media.startswith("image/") for media, weight in accepted if weight)
    return named and image >= document


def traceparent(headers: Mapping[str, str]) -> str | None:
    """The caller's trace; one that is not written as the standard has it counts as none."""
    value = headers.get("traceparent", "")
    return value if _TRACE.fullmatch(value) else None
