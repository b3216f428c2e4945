"""Log lines."""

import logging

from config.logging import TextFormatter


def test_a_value_from_outside_can_neither_end_a_log_line_nor_colour_it():
    record = logging.makeLogRecord({"msg": "dead letter", "reason": "x: \n2026 INFO forged\x1b[31m"})
    line = TextFormatter().format(record)
    assert "\n" not in line
    assert "\x1b" not in line
