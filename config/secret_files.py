"""A secret in the environment: the value of NAME, or the content of the file that NAME_FILE names.

Docker and Kubernetes give a container its secrets as files. Everybody who may look at a process sees its environment,
so a file is the safer place.
"""

from collections.abc import Mapping
from pathlib import Path

_SUFFIX = "_FILE"


class WrongSecret(ValueError):
    """A secret cannot be read. The sentence names its setting and never quotes a value."""


def read_secret(name: str, environ: Mapping[str, str]) -> str | None:
    """The secret of this name without the line breaks at its end; None if it is not set. Raises WrongSecret."""
    value, file = environ.get(name), environ.get(name + _SUFFIX)
    if not file:
        return value or None
    if value:
        raise WrongSecret(f"{name} and {name}{_SUFFIX} are both set: set one of them.")
    try:
        content = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise WrongSecret(f"{name}{_SUFFIX}={file!r}: the file cannot be read ({type(error).__name__}).") from None
    if not content:
        raise WrongSecret(f"{name}{_SUFFIX}={file!r}: the file is empty.")
    return content


def is_file_of(name: str, secrets: frozenset[str]) -> bool:
    """Whether the variable of this name names the file of one of these secrets."""
    return name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in secrets
