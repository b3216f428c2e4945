"""Reads a request body strictly: one JSON object with unique keys and finite numbers."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from tasks.errors import BodyTooLarge, InvalidRequest, MalformedBody, UnsupportedMediaType

Model = TypeVar("Model", bound=BaseModel)

_DIGITS = 18
"""No length has more digits; Python refuses to read a number of some thousands."""


class _NotStrictError(ValueError):
    """The text is JSON to Python and not to the standard."""


async def read_body(headers: Mapping[str, str], stream: AsyncIterator[bytes], limit: int) -> bytes:
    """The body's bytes, read no further than `limit`. Raises UnsupportedMediaType, BodyTooLarge, MalformedBody."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType(f"The body is sent as {media_type or 'nothing'}; it must be application/json.")
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


def parse_body(model: type[Model], body: bytes) -> Model:
    """The body as this model. Raises MalformedBody if it is not one JSON object with unique keys and finite numbers,
    InvalidRequest naming the first field that is wrong."""
    value = _parse_json(body)
    try:
        return model.model_validate(value)
    except ValidationError:
        return _validate_again(model, body)


def _validate_again(model: type[Model], body: bytes) -> Model:
    """Validate from the text: only then do the messages speak of JSON and not of Python."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from error


def _parse_json(body: bytes) -> dict[str, Any]:
    # Not by pydantic's own parser, which takes the last of two equal keys and reads NaN.
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise MalformedBody("The body is not UTF-8.") from error
    except RecursionError as error:
        raise MalformedBody("The body is nested too deeply.") from error
    except _NotStrictError as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise MalformedBody(f"The body is not JSON: {error.msg} at {at}.") from error
    except ValueError as error:  # Python reads no number of more than some thousand digits
        raise MalformedBody("The body has a number with too many digits.") from error
    if not isinstance(value, dict):
        raise MalformedBody("The body must be a JSON object.")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise _NotStrictError(f"the key {key!r} appears twice")
        value[key] = item
    return value


def _no_constant(name: str) -> NoReturn:
    raise _NotStrictError(f"{name} is not a JSON number")


def _invalid(error: ValidationError) -> MalformedBody | InvalidRequest:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return MalformedBody(f"The body is not JSON: {first['ctx']['error']}.")
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
