"""API keys: the file that holds them, as hashes, and `python -m functions.api.keys new USER` that makes one.

A key is `aig_{id}_{secret}`: a public id to look it up by, and 256 random bits. The file has one line of JSON a key,
with the SHA-256 of the whole key. A slow, salted password hash would add nothing: it makes guessing what a person
chose dear, and 256 random bits cannot be guessed at any speed.
"""

import argparse
import hashlib
import hmac
import logging
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.task import ANONYMOUS

log = logging.getLogger(__name__)

PREFIX = "aig_"
_MAX_KEY = 200
_NOBODY = hashlib.sha256(b"").hexdigest()
Names = tuple[str, ...]


class ApiKey(BaseModel):
    """One line of the file: whose key it is and what it may use. A field we do not know is refused: a limit that is
    misspelled must not count as none."""

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
            raise ValueError(f"{ANONYMOUS} is whoever has no key")
        return user


class BadKeys(ValueError):
    """The file cannot be used; says why, and never what it holds."""


def new_key(user: str, lanes: Sequence[str] = (), models: Sequence[str] = ()) -> tuple[str, ApiKey]:
    """A fresh key, which nothing keeps, and its line for the file."""
    key_id = secrets.token_hex(6)
    key = f"{PREFIX}{key_id}_{secrets.token_hex(32)}"
    return key, ApiKey(
        id=key_id, sha256=_hash(key), user=user, lanes=tuple(lanes) or None, models=tuple(models) or None
    )


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(text: str) -> dict[str, ApiKey]:
    """The keys of a file's text by id. Empty lines and lines that begin with # say nothing. Raises BadKeys."""
    found: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = ApiKey.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            # The name of a field we do not know is whatever somebody wrote there.
            field = "" if first["type"] == "extra_forbidden" else ".".join(map(str, first["loc"]))
            raise BadKeys(f"line {number}: {f'{field}: ' if field else ''}{first['msg']}") from None
        if key.id in found:
            raise BadKeys(f"line {number}: the id {key.id} is there twice")
        found[key.id] = key
    return found


class ApiKeyFile:
    """The keys in force: those of the file, read again whenever it changes."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises BadKeys where it cannot be."""
        self._path = path
        self._seen = self._stamp()
        self._keys = self._read()

    def find(self, presented: str) -> ApiKey | None:
        """Whose key this is; None: nobody's."""
        self._look_again()
        if len(presented) > _MAX_KEY or not presented.startswith(PREFIX):
            return None
        key = self._keys.get(presented.removeprefix(PREFIX).partition("_")[0])
        # Compared also where there is no such id, so that the time of an answer does not tell which ids there are.
        same = hmac.compare_digest(_hash(presented), key.sha256 if key else _NOBODY)
        return key if same else None

    def _look_again(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = self._read()
        except BadKeys as error:
            log.error("the keys from before stay in force: %s", error)
        else:
            log.info("API keys read again: %d", len(self._keys))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> dict[str, ApiKey]:
        try:
            return read_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadKeys(f"API_KEYS_FILE={self._path} cannot be read: {type(error).__name__}") from error
        except BadKeys as error:
            raise BadKeys(f"API_KEYS_FILE={self._path}, {error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a key: the line for the file on standard output, the key itself, once, on standard error."""
    parser = argparse.ArgumentParser(prog="python -m functions.api.keys", description="Make an API key.")
    new = parser.add_subparsers(required=True).add_parser("new", help="make a key for a user")
    new.add_argument("user")
    new.add_argument("--lane", action="append", default=[], help="a lane it may use; none named: every lane")
    new.add_argument("--model", action="append", default=[], help="a model it may use; none named: every model")
    asked = parser.parse_args(arguments)
    try:
        key, line = new_key(asked.user, asked.lane, asked.model)
    except ValidationError as error:
        parser.error(str(error.errors(include_url=False)[0]["msg"]))
    print(f"The key, shown this once: {key}", file=sys.stderr)
    print(line.model_dump_json(exclude_none=True))


if __name__ == "__main__":
    main()
