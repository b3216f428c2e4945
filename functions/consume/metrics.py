"""The consumer's metrics. No user and no task is ever a label."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from functions.consume.runner_pool import RunnerPool
from tasks.events import Outcome
from tasks.queues import Queues

WAIT_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Seconds: from an idle queue to an hour's backlog."""


class Metrics:
    """The consumer's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        r = self.registry
        lane = ["model", "lane"]
        self.tasks = Counter("ai_image_gen_tasks", "Tasks that ended.", [*lane, "status", "code"], registry=r)
        self.depth = Gauge("ai_image_gen_queue_depth", "Tasks queued.", lane, registry=r)
        self.oldest = Gauge("ai_image_gen_queue_oldest_seconds", "Age of the oldest queued task.", lane, registry=r)
        self.wait = Histogram(
            "ai_image_gen_queue_wait_seconds", "From submit to start.", lane, buckets=WAIT_BUCKETS, registry=r
        )
        self.stage = Histogram(
            "ai_image_gen_stage_seconds",
            "Time of one stage of a task: loading, generating, storing.",
            ["model", "stage"],
            buckets=WAIT_BUCKETS,
            registry=r,
        )
        self.busy = Gauge("ai_image_gen_runner_busy_share", "Share of the pixel budget in use.", ["model"], registry=r)
        self.runners = Gauge("ai_image_gen_runners", "Runners that answer.", ["model"], registry=r)
        self.loading = Gauge("ai_image_gen_runners_loading", "Runners that load the model.", ["model"], registry=r)
        self.retries = Counter(
            "ai_image_gen_retries", "Attempts that ended without an outcome.", ["model", "code"], registry=r
        )
        self.dead_letters = Counter("ai_image_gen_dead_letters", "Records that could not be read.", registry=r)
        self.unstored = Gauge("ai_image_gen_unstored", "Generated tasks whose images are being stored.", registry=r)
        self.running = Gauge("ai_image_gen_running", "Attempts under way.", registry=r)

    def measure(self, queues: Queues, pool: RunnerPool, unstored: int, now: Callable[[], float]) -> None:
        """Set the gauges to the present values. `unstored`: tasks whose images wait to be stored."""
        self.depth.clear()
        self.oldest.clear()
        for model, lane, count, age in queues.depths(now):
            self.depth.labels(model, lane).set(count)
            self.oldest.labels(model, lane).set(age)
        self.unstored.set(unstored)
        self.busy.clear()
        for model, share in pool.busy_shares():
            self.busy.labels(model).set(share)
        for name, served in pool.models().items():
            self.runners.labels(name).set(served.runners)
            self.loading.labels(name).set(served.loading)

    def ended(self, outcome: Outcome) -> None:
        """Count an outcome and record the seconds of its stages."""
        task = outcome.task
        code = outcome.error.code if outcome.error else ""
        self.tasks.labels(task.model_name, task.topic, outcome.status, code).inc()
        if outcome.timings.queued is not None:
            self.wait.labels(task.model_name, task.topic).observe(outcome.timings.queued)
        for stage in ("loading", "generating", "storing"):
            seconds = getattr(outcome.timings, stage)
            if seconds is not None:
                self.stage.labels(task.model_name, stage).observe(seconds)
