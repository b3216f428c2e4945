"""A preview: a small image of what a running attempt has drawn so far. Any preview may be lost."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PREVIEW_BYTES = 8192
"""The largest preview image."""
PREVIEW_SECONDS = 1.0
"""An owner emits at most one preview of an attempt in so many seconds."""


class Preview(BaseModel):
    """One preview of one attempt, after `step` of `steps`. `at` is the owner's time in Unix seconds. In JSON the image
    is URL-safe base64."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    task_id: str
    attempt: int
    owner: str
    step: int
    steps: int
    at: float
    content_type: Literal["image/jpeg"] = "image/jpeg"
    image: bytes = Field(max_length=PREVIEW_BYTES)
