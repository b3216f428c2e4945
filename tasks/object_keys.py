"""The names of objects in the store, without S3_PREFIX, and which objects a record may name.

Anyone who can write to Kafka can name any object in a record, without being able to read the store. So a task's images
are read from the folder of the task alone, its inputs from the folder of its user alone, and the media type of an image
follows from the name that the service itself gave it.
"""

import hashlib
import re

from tasks.task import CONTENT_TYPES, TASK_ID

_TASK_ID = re.compile(TASK_ID)
_OUTCOME = "outcome.json"
_IMAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.(?P<format>[a-z0-9]{1,10})")
_PLAIN_USER = re.compile(r"[A-Za-z0-9-][A-Za-z0-9._-]{0,99}")
_LONGEST_KEY = 512
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_UNKNOWN_TYPE = "application/octet-stream"


def outcome_key(task_id: str) -> str:
    """The key of the task's outcome."""
    return _folder(task_id) + _OUTCOME


def image_key(task_id: str, name: str, suffix: str) -> str:
    """The key of an image of the task; `suffix` is its ImageFormat."""
    return f"{_folder(task_id)}{name}.{suffix}"


def is_image_key(key: str, task_id: str) -> bool:
    """Whether the key can be that of an image of the task."""
    name = key.removeprefix(_folder(task_id))
    return is_task_id(task_id) and name not in (key, _OUTCOME) and _IMAGE_NAME.fullmatch(name) is not None


def is_task_id(text: str) -> bool:
    """Whether the text can be the id of a task. Every other text could lead out of the folder of a task."""
    return _TASK_ID.fullmatch(text) is not None


def media_type(key: str) -> str:
    """The media type of the image of this key; that of plain bytes for a format that only a newer version knows."""
    return CONTENT_TYPES.get(key.rpartition(".")[2], _UNKNOWN_TYPE)


def input_folder(user_id: str) -> str:
    """The folder of the user's inputs. A user whose id cannot be the name of a folder has one named by its hash."""
    if _PLAIN_USER.fullmatch(user_id):
        return f"inputs/{user_id}/"
    return f"inputs/_{hashlib.sha256(user_id.encode()).hexdigest()}/"


def is_plain(key: str) -> bool:
    """Whether the service can have given an object this key: no part of it is empty, a dot or two, or has a character
    that somebody on the way could read in another way."""
    return len(key) <= _LONGEST_KEY and _PLAIN.fullmatch(key) is not None


def _folder(task_id: str) -> str:
    return f"tasks/{task_id}/"
