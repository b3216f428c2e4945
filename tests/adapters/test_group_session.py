"""How soon a killed consumer is replaced is asked of the broker, also of one that comes late."""

import concurrent.futures
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from adapters.kafka_client import Connectivity
from adapters.kafka_group import GroupReader
from config.settings import Settings


class Admin:
    """Answers with these errors, then with none."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.asked = 0

    def incremental_alter_configs(self, resources: list[Any], **_: Any) -> dict[Any, Any]:
        self.asked += 1
        answer: concurrent.futures.Future[None] = concurrent.futures.Future()
        if self.errors:
            answer.set_exception(KafkaException(KafkaError(self.errors.pop(0))))
        else:
            answer.set_result(None)
        return {resources[0]: answer}


def ask(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> int:
    owner = GroupReader(Settings(), Connectivity(), admin, lambda: None)  # type: ignore[arg-type]
    monkeypatch.setattr(owner._stop, "wait", lambda _: False)
    owner._set_session()
    return admin.asked


@pytest.mark.parametrize("away", [KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN])
def test_a_broker_that_is_away_is_asked_again_until_it_answers(away: int, monkeypatch: pytest.MonkeyPatch):
    assert ask(Admin(away, away), monkeypatch) == 3


@pytest.mark.parametrize("no", [KafkaError.INVALID_CONFIG, KafkaError._UNSUPPORTED_FEATURE])
def test_a_broker_that_refuses_keeps_its_own_and_is_asked_once(no: int, monkeypatch: pytest.MonkeyPatch):
    assert ask(Admin(no), monkeypatch) == 1
