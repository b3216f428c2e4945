"""API keys, and the file that holds their hashes. `python -m functions.api.keys new USER` makes a key.

A key is `aig_{id}_{secret}`: a public id to look it up by, and 256 random bits. The file has one line of JSON a key,
with the SHA-256 of the whole key. A slow, salted password hash would add nothing: it makes guessing of passwords that
people chose expensive, and 256 random bits cannot be guessed at any speed.
"""

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.task import ANONYMOUS

logger = logging.getLogger(__name__)

PREFIX = "aig_"
_MAX_KEY = 200
_SETTLING_SECONDS = 2.0
"""No file system that is in use counts the time of a change in longer ticks."""
_NO_HASH = hashlib.sha256(b"").hexdigest()
Names = tuple[str, ...]


class ApiKey(BaseModel):
    """One line of the file: the key's user and what the key may use. Unknown fields are refused, because a misspelled
    limit must not count as no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    user: str = Field(min_length=1, max_length=200)
    lanes: Names | None = Field(default=None, min_length=1, description="None: every lane.")
    models: Names | None = Field(default=None, min_length=1, description="None: every model.")

    @field_validator("user")
    @classmethod
    def _is_somebody(cls, user: str) -> str:
        if user == ANONYMOUS:
            raise ValueError(f"{ANONYMOUS} is the user of requests without a key")
        return user


class BadKeys(ValueError):
    """The file cannot be used. The message says why, and never quotes the file."""


def new_key(user: str, lanes: Sequence[str] = (), models: Sequence[str] = ()) -> tuple[str, ApiKey]:
    """A new key, which is kept nowhere, and its line for the file. Raises BadKeys, and ValidationError for a user that
    the file may not name."""
    for name in (user, *lanes, *models):
        # A line separator would end the line of the file, and a control character would act on a terminal.
        if not name or not name.isprintable():
            raise BadKeys(f"{name!r} is no name: a name has at least one character, and only printable ones.")
    key_id = secrets.token_hex(6)
    key = f"{PREFIX}{key_id}_{secrets.token_hex(32)}"
    return key, ApiKey(
        id=key_id, sha256=_hash(key), user=user, lanes=tuple(lanes) or None, models=tuple(models) or None
    )


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(text: str) -> dict[str, ApiKey]:
    """The keys of a file's text by id. Empty lines and lines that begin with # are skipped. Raises BadKeys."""
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = ApiKey.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            # The name of an unknown field may be a secret in the wrong place: it is not quoted.
            field = "" if first["type"] == "extra_forbidden" else ".".join(map(str, first["loc"]))
            raise BadKeys(f"line {number}: {f'{field}: ' if field else ''}{first['msg']}") from None
        if key.id in keys:
            raise BadKeys(f"line {number}: the id {key.id} appears twice")
        keys[key.id] = key
    return keys


class ApiKeyFile:
    """The keys in force: those of the file, which is read again whenever it changes. While the file cannot be used, the
    keys that were read before stay in force."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises BadKeys if the file cannot be used."""
        self._path = path
        self._settled: tuple[int, ...] | None = None
        self._content: bytes | str = ""
        self._look()
        self._keys = self._parse()
        self._broken = False

    @property
    def broken(self) -> bool:
        """Whether the file, as it is now, cannot be used."""
        self._reread()
        return self._broken

    def find(self, presented: str) -> ApiKey | None:
        """The key that was presented; None if it is unknown."""
        self._reread()
        if len(presented) > _MAX_KEY or not presented.startswith(PREFIX):
            return None
        key = self._keys.get(presented.removeprefix(PREFIX).partition("_")[0])
        # Compared also if the id is unknown, so that the time of an answer does not tell which ids exist.
        same = hmac.compare_digest(_hash(presented), key.sha256 if key else _NO_HASH)
        return key if same else None

    def _reread(self) -> None:
        if not self._look():
            return
        try:
            self._keys = self._parse()
        except BadKeys as error:
            self._broken = True
            logger.error("the keys from before stay in force: %s", error)
        else:
            self._broken = False
            logger.info("API keys read again: %d", len(self._keys))

    def _look(self) -> bool:
        """Read the file if it may have changed. True if its content has.

        Size and modification time do not show every change: a program that writes the file may set that time, and two
        writes within one tick of the clock have the same. No program can set the time of the last change (ctime). It is
        trusted once it is so old that a further change would show in it; until then the content is read and compared.
        """
        stamp: tuple[int, ...] | None = None
        try:
            status = self._path.stat()
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if stamp == self._settled:
                return False
            if time.time() - status.st_ctime < _SETTLING_SECONDS:
                stamp = None
            content: bytes | str = self._path.read_bytes()
        except OSError as error:
            stamp, content = None, type(error).__name__
        self._settled = stamp
        before, self._content = self._content, content
        return content != before

    def _parse(self) -> dict[str, ApiKey]:
        """The keys in the content that was read; a text says why there is none. Raises BadKeys."""
        if isinstance(self._content, str):
            raise BadKeys(f"API_KEYS_FILE={self._path} cannot be read: {self._content}")
        try:
            return read_keys(self._content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BadKeys(f"API_KEYS_FILE={self._path} cannot be read: {type(error).__name__}") from error
        except BadKeys as error:
            raise BadKeys(f"API_KEYS_FILE={self._path}, {error}") from error
