"""`python -m infra.local.java_lock` writes requirements/java-*.txt: the jars of Kafka and of the S3 server, and their
SHA-256. `make lock` runs it."""

import hashlib
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jgo.maven import Artifact, MavenContext
from jgo.parse import Coordinate

from infra.local.java import LOCKS, PROGRAMS


def resolve(packages: Sequence[str], context: MavenContext) -> list[Artifact]:
    """The jars of the packages and of all that they need to run, in the order of the class path."""
    coordinates = [Coordinate(*package.split(":"), scope="compile") for package in packages]
    named, needed = context.resolver.resolve([context.create_dependency(coordinate) for coordinate in coordinates])
    return [entry.artifact for entry in [*named, *(entry for entry in needed if entry.scope in ("compile", "runtime"))]]


def line(artifact: Artifact) -> str:
    """The pin of a jar, which is downloaded for it."""
    assert artifact.packaging == "jar", artifact
    assert not artifact.classifier, artifact
    package = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
    return f"{package} --hash=sha256:{hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()}\n"


def main() -> None:
    """Write the files. Reads nothing from the local Maven repository, whose files may be others."""
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder))
        for program, packages in PROGRAMS.items():
            with ThreadPoolExecutor(8) as pool:
                lines = list(pool.map(line, resolve(packages, context)))
            (LOCKS / f"java-{program}.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
