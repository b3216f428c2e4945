"""A second signal ends a BentoML server and its workers at once."""

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from circus.sighandler import SysHandler

from bentos.signals import end_at_second_signal


def test_the_first_signal_ends_in_order_and_the_second_kills(monkeypatch: pytest.MonkeyPatch):
    steps: list[Any] = []
    monkeypatch.setattr(SysHandler, "quit", lambda _: steps.append("in order"))
    monkeypatch.setattr(os, "kill", lambda pid, number: steps.append((pid, number)))
    monkeypatch.setattr(os, "_exit", lambda code: steps.append(f"exit {code}"))
    end_at_second_signal()
    watchers = [SimpleNamespace(processes={11: None, 12: None}), SimpleNamespace(processes={21: None})]
    handler = SysHandler.__new__(SysHandler)
    handler.controller = SimpleNamespace(arbiter=SimpleNamespace(watchers=watchers))
    handler.quit()
    assert steps == ["in order"]
    handler.quit()
    assert steps[1:] == [*((pid, signal.SIGKILL) for pid in (11, 12, 21)), "exit 143"]
