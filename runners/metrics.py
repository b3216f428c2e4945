"""The metrics of a runner."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE_LATEST", "RunnerMetrics"]


class RunnerMetrics:
    """The metrics of one runner."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        r = self.registry
        self.busy = Counter("ai_image_gen_runner_busy_seconds", "Seconds spent in forwards.", registry=r)
        self.rows = Histogram(
            "ai_image_gen_runner_batch_rows", "Images in one forward.", buckets=(1, 2, 3, 4, 6, 8, 12, 16), registry=r
        )
        self.ticks = Histogram(
            "ai_image_gen_runner_tick_seconds",
            "Time of one forward.",
            buckets=(0.005, 0.02, 0.05, 0.1, 0.3, 1, 3),
            registry=r,
        )
        self.running = Gauge("ai_image_gen_runner_running_pixels", "Pixels of the running tasks.", registry=r)
        self.waiting = Gauge("ai_image_gen_runner_waiting", "Tasks that were accepted and do not run yet.", registry=r)

    def tick(self, rows: int, seconds: float) -> None:
        """Count one forward."""
        self.busy.inc(seconds)
        self.rows.observe(rows)
        self.ticks.observe(seconds)

    def text(self, running_pixels: int, waiting: int) -> bytes:
        """All of them in the text format of Prometheus, with the load as it is now."""
        self.running.set(running_pixels)
        self.waiting.set(waiting)
        return generate_latest(self.registry)
