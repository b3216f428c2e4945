"""What `make run` keeps is closed to the other users of the machine, also what an older version left open."""

import configparser
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from infra.local import __main__ as make_run
from infra.local.ports import PORTS, free_ports
from infra.local.private import aws_credentials, close_files, private_folder, write_private
from infra.local.process import Part, Process, until
from infra.local.servers import S3, Kafka


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """The umask of most systems, with which everybody can read what a process creates."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def rights(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_folders_of_an_older_version_are_closed(tmp_path: Path) -> None:
    kafka, s3 = Kafka(tmp_path / "kafka", *free_ports(2)), S3(tmp_path / "s3", 1)
    for folder in (kafka.folder, s3.folder):
        (folder / "data").mkdir(parents=True)
    (kafka.folder / "data" / "meta.properties").touch()  # it counts as formatted
    for file in (kafka.folder / "server.properties", s3.folder / "s3proxy.conf"):
        file.write_text("of an older version")
    kafka.part()
    s3.part()
    for folder in (kafka.folder, s3.folder):
        assert (rights(folder), rights(folder / "data")) == (0o700, 0o700)
    for file in (kafka.folder / "server.properties", s3.folder / "s3proxy.conf", s3.folder / "credentials"):
        assert rights(file) == 0o600


def test_every_folder_has_credentials_of_its_own_and_keeps_them(tmp_path: Path) -> None:
    first, other = S3(tmp_path / "a", 1), S3(tmp_path / "b", 1)
    assert first.env == S3(tmp_path / "a", 1).env
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert first.env[name] != other.env[name]
    assert len(first.env["AWS_SECRET_ACCESS_KEY"]) == 64
    assert first.env["AWS_SECRET_ACCESS_KEY"] not in " ".join(first.command())


def test_the_usual_s3_clients_read_the_credentials(tmp_path: Path) -> None:
    s3 = S3(tmp_path, 1)
    env = s3.env
    parser = configparser.ConfigParser()
    parser.read(tmp_path / "credentials")
    assert parser["default"]["aws_secret_access_key"] == env["AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize("text", ["", "[default]\naws_access_key_id = a\n", "aws_access_key_id = a", "\0", "[other]\n"])
def test_a_broken_credentials_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    with pytest.raises(RuntimeError, match=r"is no file of AWS credentials\. Remove it"):
        aws_credentials(file)


def test_a_part_creates_files_that_only_its_user_reads(tmp_path: Path) -> None:
    part = Part("job", ("python", "-c", f"import pathlib; pathlib.Path({str(tmp_path / 'made')!r}).touch()"))
    process = Process(part, tmp_path / "log").start()
    until(lambda: process.exit_code is not None, 30, "the job has ended")
    assert rights(tmp_path / "made") == 0o600


def test_logs_of_an_older_version_are_closed_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log, other, target = tmp_path / "logs" / "a.log", tmp_path / "logs" / "other", tmp_path / "target"
    for file in (log, other, target):
        file.touch()
    (tmp_path / "logs" / "b.log").symlink_to(target)
    close_files(tmp_path / "logs", "*.log")
    assert (rights(log), rights(other), rights(target)) == (0o600, 0o644, 0o644)


def test_a_folder_that_make_run_did_not_create_keeps_its_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PORTS:
        monkeypatch.setenv(name, "0")
    (tmp_path / "shared").mkdir()
    for folder, expected in (("shared", 0o755), ("new", 0o700)):
        monkeypatch.setattr(make_run, "HOME", tmp_path / folder)
        make_run.check_machine(runners=1)
        assert rights(tmp_path / folder) == expected


def test_the_logs_and_the_view_of_an_older_version_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [
        Path("logs/ai_image_gen.api.log.1"),
        Path("logs/runner.a.1/ai_image_gen.a.log"),
        Path("view"),
        Path("view-wal"),
    ]
    other = Path("viewers")
    for file in (*files, other):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    make_run.close_to_others(Settings(view_path="view"))  # type: ignore[call-arg]
    assert {rights(file) for file in files} == {0o600}
    assert (rights(Path("logs")), rights(other)) == (0o700, 0o644)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with file.open() as reader:
        write_private(file, "new")
        assert reader.read() == "old"
    assert (file.read_text(), rights(file)) == ("new", 0o600)
    assert [path.name for path in private_folder(tmp_path).iterdir()] == ["file"]
