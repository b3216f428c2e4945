"""No Java package runs that is not the one pinned in requirements/."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jgo.maven import Artifact

from infra.local import java
from infra.local.servers import S3, Kafka

PACKAGE = "org.toy:toy:1.0"
RIGHT, WRONG = b"the right jar", b"another jar"


def pin(content: bytes = RIGHT, package: str = PACKAGE) -> str:
    return f"{package} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local Maven repository, an empty cache folder, and a program of one package with its pin."""
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(java, "PROGRAMS", {"toy": (PACKAGE,), "kafka": (PACKAGE,), "s3proxy": (PACKAGE,)})
    monkeypatch.setattr(java, "LOCKS", tmp_path)
    for program in java.PROGRAMS:
        (tmp_path / f"java-{program}.txt").write_text(pin())
    return tmp_path / "m2"


def jar(repository: Path) -> Path:
    return repository / "org/toy/toy/1.0/toy-1.0.jar"


def keep(repository: Path, content: bytes) -> None:
    jar(repository).parent.mkdir(parents=True)
    jar(repository).write_bytes(content)


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[Path]:
    """Let every download have this content. Returns the files that were downloaded."""
    downloads: list[Path] = []

    def resolve(artifact: Artifact) -> Path:
        file = artifact.cached_path
        assert file is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        downloads.append(file)
        return file

    monkeypatch.setattr(Artifact, "resolve", resolve)
    return downloads


def test_the_pinned_jar_is_on_the_class_path(repository: Path) -> None:
    keep(repository, RIGHT)
    assert str(jar(repository)) in java.java("toy", "Main")


def test_a_changed_jar_is_one_sentence_and_nothing_starts(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep(repository, WRONG)
    starts: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: starts.append(args))
    servers: list[Callable[[], list[str]]] = [Kafka(tmp_path / "k", 1, 2).command, S3(tmp_path / "s", 3).command]
    for command in servers:
        with pytest.raises(RuntimeError, match=rf"is not the package {PACKAGE} .* Nothing was started\. Remove"):
            command()
    assert starts == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", f"has no pin of {PACKAGE}"),
        (None, f"has no pin of {PACKAGE}"),
        (pin(package="org.toy:toy:1.1"), f"has no pin of {PACKAGE}"),
        (PACKAGE, "pins nothing"),
        (f"{pin()}{PACKAGE} --hash=sha256:12", "pins nothing"),
        (pin().upper(), "pins nothing"),
        (pin(package="../org:toy:1.0"), "pins nothing"),
    ],
)
def test_a_missing_or_broken_pin_is_one_sentence(repository: Path, text: str | None, words: str) -> None:
    keep(repository, RIGHT)
    file = java.LOCKS / "java-toy.txt"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(RuntimeError, match=rf"{words}.* `make lock` writes the file anew"):
        java.java("toy", "Main")


def test_a_missing_jar_is_downloaded_once_and_kept_whole(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = serve(monkeypatch, RIGHT)
    for _ in range(2):
        assert java.jars("toy") == [jar(repository)]
    assert jar(repository).read_bytes() == RIGHT
    assert len(downloads) == 1
    assert [file.name for file in jar(repository).parent.iterdir()] == ["toy-1.0.jar"]


def test_a_download_of_other_content_is_thrown_away(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = serve(monkeypatch, WRONG)
    with pytest.raises(RuntimeError, match=r"Nothing was started\. The download was thrown away"):
        java.jars("toy")
    assert not downloads[0].exists()
    assert not jar(repository).exists()


def test_the_lock_lies_in_the_cache_folder_of_the_user(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(monkeypatch, RIGHT)
    java.jars("toy")
    cache = tmp_path / "cache" / "ai-image-gen"
    assert [file.name for file in cache.iterdir()] == ["jars.lock"]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_every_program_is_pinned_and_no_pin_has_an_address() -> None:
    for program in java.PROGRAMS:
        pinned = java.pins(program)
        assert len({pin.package.rpartition(":")[0] for pin in pinned}) == len(pinned), "a package has two versions"
        assert "://" not in (java.LOCKS / f"java-{program}.txt").read_text()
    assert not any(":1.33" in pin.package for pin in java.pins("s3proxy") if "snakeyaml" in pin.package)


def test_there_is_a_lock_for_each_program_and_no_other() -> None:
    locks = {file.name for file in java.LOCKS.glob("java-*.txt")}
    assert locks == {f"java-{program}.txt" for program in java.PROGRAMS}
