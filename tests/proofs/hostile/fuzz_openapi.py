"""Requests that schemathesis makes from the OpenAPI document, over a socket, to a whole service on twins."""

import itertools
import time
from collections import Counter
from collections.abc import Callable

import httpx
import hypothesis
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.proofs.hostile.served import ServedService
from tests.support.world import SETTINGS

_BODY = {"model_name": "sd-mini", "prompt": "a red circle"}


def run(examples: int, seed: int) -> Counter[str]:
    """Send about `examples` requests, valid and invalid ones of every operation. Returns the number of answers by status.

    Raises if an answer is a 5xx or not as documented.
    """
    load_all_checks()
    counts: Counter[str] = Counter()
    with ServedService(SETTINGS.model_copy(update={"wait_limit": 0.01})).running() as served:
        done, _ = ids = [_submit(served), _submit(served)]
        _await_end(served, done)
        schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
        operations = [operation.ok() for operation in schema.get_all_operations()]
        share = max(1, examples // (2 * len(operations)))
        for operation, mode in itertools.product(operations, (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)):
            cases = operation.as_strategy(generation_mode=mode)
            existing = st.sampled_from((*ids, None)) if mode is GenerationMode.POSITIVE else st.none()
            given_share = hypothesis.settings(
                max_examples=share, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )
            try:
                hypothesis.seed(seed)(given_share(given(case=cases, existing=existing)(_send(counts))))()
            except Unsatisfiable:
                # An operation without parameters has no invalid request.
                counts["operations without an invalid request"] += 1
        _await_end(served, _submit(served))
    return counts


def _send(counts: Counter[str]) -> Callable[[schemathesis.Case, str | None], None]:
    def example(case: schemathesis.Case, existing: str | None) -> None:
        # The document cannot name ids and a model that exist: with them some requests succeed.
        if existing and "task_id" in (case.path_parameters or {}):
            case.path_parameters["task_id"] = existing
        if existing and isinstance(case.body, dict):
            case.body["model_name"] = _BODY["model_name"]
        answer = case.call(timeout=60)
        counts[f"{answer.status_code}"] += 1
        # A request that the model cannot do is valid by the schema and refused with a 422. A body that is too large is
        # refused with a 413 even if something else is wrong with it.
        excluded = [positive_data_acceptance, *([negative_data_rejection] if answer.status_code == 413 else [])]
        case.validate_response(answer, excluded_checks=excluded)

    return example


def _submit(served: ServedService) -> str:
    answer = httpx.post(f"{served.url}/generate_image", json=_BODY, timeout=60)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def _await_end(served: ServedService, task_id: str) -> None:
    deadline = time.monotonic() + 60
    while (status := httpx.get(f"{served.url}/check_status/{task_id}", timeout=60).json())["status"] != "completed":
        assert status["status"] in ("queued", "running"), status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
