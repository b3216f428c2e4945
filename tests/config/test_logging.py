"""Log lines: text for a person, JSON for a program, to standard output and to a file that rotates."""

import json
import logging
import sys
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from config.logging import JsonFormatter, TextFormatter, configure_logging
from config.settings import Settings

RECORD = {"msg": "task %s started", "args": ("a1",), "levelname": "INFO", "name": "functions.consume", "created": 0.5}


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger. Its handlers and level are restored after the test, and new handlers are closed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_text_line_has_the_time_the_level_the_message_and_the_fields():
    line = TextFormatter().format(logging.makeLogRecord({**RECORD, "task_id": "a1", "attempt": 2}))
    assert line == "1970-01-01T00:00:00.500Z INFO task a1 started task_id=a1 attempt=2"


def test_text_of_a_client_can_neither_end_a_log_line_nor_colour_it():
    record = logging.makeLogRecord({"msg": "dead letter", "reason": "x: \n2026 INFO forged\x1b[31m"})
    line = TextFormatter().format(record)
    assert "\n" not in line
    assert "\x1b" not in line


def test_a_json_line_is_one_object_with_the_fields_and_the_exception():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.makeLogRecord({**RECORD, "task_id": "a1", "path": Path("x"), "exc_info": sys.exc_info()})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.pop("exception").endswith("ValueError: two\nlines")
    assert fields == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "INFO",
        "logger": "functions.consume",
        "message": "task a1 started",
        "task_id": "a1",
        "path": "x",
    }


@pytest.mark.parametrize(("form", "end"), [("text", "Z WARNING but this"), ("json", '"message": "but this"}')])
def test_logs_go_to_standard_output_and_to_a_rotating_file(root: logging.Logger, tmp_path: Path, form: str, end: str):
    configure_logging(Settings(log_dir=tmp_path / "logs", log_format=form, log_level="WARNING"), "api")
    logging.getLogger("any").info("not this")
    logging.getLogger("any").warning("but this")
    assert {type(handler) for handler in root.handlers} == {logging.StreamHandler, RotatingFileHandler}
    (line,) = (tmp_path / "logs" / "ai_image_gen.api.log").read_text().splitlines()
    assert line.endswith(end)


def test_a_record_is_formatted_once_for_all_handlers(
    root: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    class Counted:
        times = 0

        def __str__(self) -> str:
            Counted.times += 1
            return f"text {Counted.times}"

    configure_logging(Settings(log_dir=tmp_path), "test")
    for _ in range(2):
        root.info("%s", Counted())
    lines = (tmp_path / "ai_image_gen.test.log").read_text().splitlines()
    assert [line.rpartition(" INFO ")[2] for line in lines] == ["text 1", "text 2"]
    assert capsys.readouterr().out.splitlines() == lines


def test_a_log_folder_of_a_dash_means_standard_output_only(root: logging.Logger, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure_logging(Settings(log_dir=Path("-")), "api")
    assert [type(handler) for handler in root.handlers] == [logging.StreamHandler]
    assert list(tmp_path.iterdir()) == []


BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
CONTROLS = ["\x00", "\x08", "\x1b[31m", "\x1b]0;title\x07", "\x7f", "\x9b31m", "\u202e", "\ufeff", "\ud800"]
FORGED = "2026-01-01T00:00:00.000Z INFO forged"


@pytest.mark.parametrize("break_", [*BREAKS, *CONTROLS])
@pytest.mark.parametrize("place", ["argument", "message", "extra", "logger"])
def test_no_text_ends_a_line_of_a_text_log_or_acts_on_a_terminal(break_: str, place: str):
    text = f"a.png{break_}{FORGED}"
    record = {"msg": "cannot read %s", "args": (Path(text) if "\x00" not in text else text,), "levelname": "ERROR"}
    record |= {
        "argument": {},
        "message": {"msg": text, "args": ()},
        "extra": {"reason": text},
        "logger": {"name": text, "args": (text,)},
    }[place]
    line = TextFormatter().format(logging.makeLogRecord(record))
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert line.encode()
    assert "a.png" in line and "INFO forged" in line


def test_text_that_can_be_printed_is_logged_as_it_is():
    text = r"ein Bild \n 'größer' 日本 C:\x1b"
    record = logging.makeLogRecord({**RECORD, "msg": "%s", "args": (text,)})
    assert TextFormatter().format(record).endswith(f"INFO {text}")


@pytest.mark.parametrize("break_", [*BREAKS, *CONTROLS])
@pytest.mark.parametrize("chained", [False, True])
def test_no_text_of_an_exception_looks_like_a_line_of_the_log(break_: str, chained: bool):
    try:
        try:
            raise ValueError(f"a.png{break_}{FORGED}")
        except ValueError as error:
            if chained:
                raise KeyError(f"b.png{break_}{FORGED}") from error
            raise
    except (ValueError, KeyError) as error:
        error.add_note(f"a note{break_}{FORGED}")
        record = logging.makeLogRecord({**RECORD, "exc_info": sys.exc_info(), "stack_info": f"Stack:{break_}{FORGED}"})
    first, *more = TextFormatter().format(record).split("\n")
    assert first == "1970-01-01T00:00:00.500Z INFO task a1 started"
    assert more
    assert all(line.startswith("    ") and line.isprintable() for line in more)
    assert sum("INFO forged" in line for line in more) >= 3
    assert any("test_no_text_of_an_exception" in line for line in more), "where it was raised is still said"


def test_a_handler_before_cannot_leave_its_own_text_of_the_exception():
    record = logging.makeLogRecord({**RECORD, "exc_text": f"made elsewhere\n{FORGED}"})
    lines = TextFormatter().format(record).split("\n")
    assert all(line.startswith("    ") for line in lines[1:])
    try:
        raise ValueError(f"a.png\n{FORGED}")
    except ValueError:
        record = logging.makeLogRecord({**RECORD, "exc_info": sys.exc_info()})
    once, again = TextFormatter().format(record), TextFormatter().format(record)
    assert once == again


def test_a_lone_surrogate_does_not_stop_a_json_line():
    record = logging.makeLogRecord({**RECORD, "args": ("\ud800",), "path": "\udcff\u2028"})
    line = JsonFormatter().format(record)
    assert line.isprintable() and line.isascii()
