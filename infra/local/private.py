"""Folders and files that only the user of this process can read: prompts, images and credentials are private."""

import configparser
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

UMASK = 0o077
"""The umask of every part: others can neither read nor enter what it creates."""
_LOGIN = "default"


def private_folder(folder: Path) -> Path:
    """Create the folder if it is missing, and close it to other users, also if an older version left it open.

    Raises OSError if it belongs to another user.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def close_files(folder: Path, *patterns: str) -> None:
    """Take the rights of others on the files of this user that an older version left open. Follows no link."""
    for file in (file for pattern in patterns for file in folder.glob(pattern)):
        if not file.is_symlink() and file.is_file() and file.stat().st_uid == os.geteuid():
            file.chmod(0o600)


def write_private(file: Path, text: str) -> None:
    """Replace the file with one of this text that only this user can read, never with a part of the text."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    Path(name).replace(file)


def aws_credentials(file: Path) -> Mapping[str, str]:
    """The `aws_access_key_id` and `aws_secret_access_key` of a file in the format of the AWS clients.

    A missing file is written with random ones. Raises RuntimeError if the file holds none.
    """
    if not file.exists():
        login = f"aws_access_key_id = {secrets.token_hex(10)}\naws_secret_access_key = {secrets.token_hex(32)}\n"
        write_private(file, f"[{_LOGIN}]\n{login}")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
        return {name: parser[_LOGIN][name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    except (configparser.Error, KeyError, ValueError):
        raise RuntimeError(f"{file} is no file of AWS credentials. Remove it; the next start writes it anew.") from None
