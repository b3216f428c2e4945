"""API keys, and the file that holds their hashes. `python -m functions.api.keys new USER` makes a key.

A key is `aig_{id}_{secret}`: a public id to look it up by, and 256 random bits. The file has one line of JSON a key,
with the SHA-256 of the whole key. A slow, salted password hash would add nothing: it makes guessing of passwords that
people chose expensive, and 256 random bits cannot be guessed at any speed.
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.task import ANONYMOUS

logger = logging.getLogger(__name__)

PREFIX = "aig_"
_MAX_KEY = 200
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
    """A new key, which is kept nowhere, and its line for the file."""
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
    """The keys in force: those of the file, which is read again whenever it changes."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises BadKeys if the file cannot be used."""
        self._path = path
        self._seen = self._stamp()
        self._keys = self._read()

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
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = self._read()
        except BadKeys as error:
            logger.error("the keys from before stay in force: %s", error)
        else:
            logger.info("API keys read again: %d", len(self._keys))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> dict[str, ApiKey]:
        try:
            return read_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadKeys(f"API_KEYS_FILE={self._path} cannot be read: {type(error).__name__}") from error
        except BadKeys as error:
            raise BadKeys(f"API_KEYS_FILE={self._path}, {error}") from error
