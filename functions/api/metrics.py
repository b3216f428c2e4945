"""The metrics of the gateway. No user and no task is ever a label."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class GatewayMetrics:
    """The metrics, in a registry of their own."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("ai_image_gen_http_requests", "Requests answered.", ["route", "status"], registry=r)
        self.seconds = Histogram(
            "ai_image_gen_http_seconds", "Time to answer.", ["route"], buckets=_BUCKETS, registry=r
        )
        self.waiting = Gauge("ai_image_gen_waiting_callers", "Callers waiting for a task.", registry=r)
        self.lag = Gauge("ai_image_gen_view_lag_records", "Records of the queue this gateway has not read.", registry=r)
        self.queued = Gauge(
            "ai_image_gen_gateway_queued", "Tasks queued, as this gateway sees it.", ["model"], registry=r
        )

        self.not_ready = Gauge(
            "ai_image_gen_not_ready", "1 while the gateway is not ready for want of this.", ["missing"], registry=r
        )

    def watch_keys(self, broken: Callable[[], bool]) -> None:
        """Report, at every reading of the metrics, whether the file of API keys cannot be used."""
        gauge = Gauge(
            "ai_image_gen_api_keys_broken",
            "1 while the file of API keys cannot be used and the keys read before stay in force.",
            registry=self.registry,
        )
        gauge.set_function(lambda: float(broken()))
