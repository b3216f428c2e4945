"""A client of the service for tests on real parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from infra.local.process import ROOT, Process, until
from infra.local.stack import Stack

__all__ = ["ROOT", "Api", "Process", "Stack", "until"]


@dataclass
class Api:
    """The requests of a user of the service."""

    url: str

    def post(self, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        """POST /generate_image."""
        return httpx.post(f"{self.url}/generate_image", json=body, headers=headers, timeout=90)

    def model_names(self) -> set[str]:
        """Every name GET /models lists."""
        return {model["model_name"] for model in httpx.get(f"{self.url}/models", timeout=30).json()["models"]}

    def submit(self, model: str = "sd-mini", prompt: str = "a red circle on a blue background", **more: Any) -> str:
        """Submit a task; its id."""
        answer = self.post({"model_name": model, "prompt": prompt, **more})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def status(self, task_id: str) -> dict[str, Any]:
        """GET /check_status."""
        answer = httpx.get(f"{self.url}/check_status/{task_id}", timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def cancel(self, task_id: str) -> httpx.Response:
        """POST /cancel_task."""
        return httpx.post(f"{self.url}/cancel_task/{task_id}", timeout=30)

    def image(self, task_id: str, **params: Any) -> httpx.Response:
        """GET /get_image."""
        return httpx.get(f"{self.url}/get_image/{task_id}", params=params, timeout=30)

    def reached(self, task_id: str, *statuses: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until the task's status is one of these; the status document."""

        def status_if_reached() -> dict[str, Any] | None:
            status = self.status(task_id)
            return status if status["status"] in statuses else None

        return dict(until(status_if_reached, seconds, f"task {task_id} {'|'.join(statuses)}"))

    def stepping(self, task_id: str) -> dict[str, Any]:
        """Wait until the task has done a step."""

        def status_if_stepping() -> dict[str, Any] | None:
            status = self.status(task_id)
            assert status["status"] in ("queued", "running"), status
            return status if (status["progress"] or {}).get("step") else None

        return dict(until(status_if_stepping, 60, f"task {task_id} steps"))
