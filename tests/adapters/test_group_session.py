"""A member asks the broker for a short session timeout, so that a killed consumer is replaced within seconds."""

import concurrent.futures
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from adapters.kafka_client import Connectivity
from adapters.kafka_group import GroupReader
from config.settings import Settings


class ScriptedAdmin:
    """Answers with these errors, then with success."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.requests = 0

    def incremental_alter_configs(self, resources: list[Any], **_: Any) -> dict[Any, Any]:
        self.requests += 1
        result: concurrent.futures.Future[None] = concurrent.futures.Future()
        if self.errors:
            result.set_exception(KafkaException(KafkaError(self.errors.pop(0))))
        else:
            result.set_result(None)
        return {resources[0]: result}


def requests_made(admin: ScriptedAdmin, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many requests a member makes, which does not wait between them."""
    member = GroupReader(Settings(), Connectivity(), admin, lambda: None, "group", ["events"])  # type: ignore[arg-type] - a stub
    monkeypatch.setattr(member._stop, "wait", lambda _: False)
    member._request_session_timeout()
    return admin.requests


@pytest.mark.parametrize("no_answer", [KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN])
def test_a_broker_that_does_not_answer_is_asked_again(no_answer: int, monkeypatch: pytest.MonkeyPatch):
    assert requests_made(ScriptedAdmin(no_answer, no_answer), monkeypatch) == 3


@pytest.mark.parametrize("refusal", [KafkaError.INVALID_CONFIG, KafkaError._UNSUPPORTED_FEATURE])
def test_a_broker_that_refuses_keeps_its_timeout_and_is_asked_once(refusal: int, monkeypatch: pytest.MonkeyPatch):
    assert requests_made(ScriptedAdmin(refusal), monkeypatch) == 1
