"""A request body, read strictly: one JSON object that means one thing."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from tasks.errors import BodyTooLarge, InvalidRequest, MalformedBody, UnsupportedMediaType
from tasks.task import GenerateRequest

_DIGITS = 18
"""No length has more; Python itself reads no number of some thousands."""


async def read_body(headers: Mapping[str, str], stream: AsyncIterator[bytes], limit: int) -> bytes:
    """The body's bytes, read no further than `limit`. Raises UnsupportedMediaType, BodyTooLarge, MalformedBody."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType(f"The body is sent as {kind or 'nothing'}; it must be application/json.")
    too_large = BodyTooLarge(f"The body may have at most {limit} bytes.")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > limit):
        raise too_large
    body = bytearray()
    try:
        async for piece in stream:
            body += piece
            if len(body) > limit:
                raise too_large
    except ClientDisconnect as error:
        raise MalformedBody("The body was cut off.") from error
    return bytes(body)


def parse_request(body: bytes) -> GenerateRequest:
    """The request. Raises MalformedBody where it is no sound JSON, InvalidRequest naming the first field that is
    wrong."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise MalformedBody("The body is not UTF-8.") from error
    except RecursionError as error:
        raise MalformedBody("The body is nested too deeply.") from error
    except ValueError as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise MalformedBody("The body must be a JSON object.")
    try:
        return GenerateRequest.model_validate(value)
    except ValidationError as error:
        raise _invalid(error) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _invalid(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    allowed = None
    if first["type"] == "extra_forbidden":
        detail = f"There is no field {field}."
    elif first["type"] == "missing":
        detail = f"The field {field} is required."
    else:
        detail = f"{field}: {first['msg']}."
    if "expected" in first.get("ctx", {}):
        allowed = [part.strip(" '") for part in str(first["ctx"]["expected"]).replace(" or ", ",").split(",")]
    return InvalidRequest(detail, field=field, allowed=allowed)
