"""What Prometheus reads: requests, latencies, verdicts, p-values, and whether the watch has alarmed."""

from collections.abc import Mapping

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from gradgeo.serve.protocol import AMONG_ALL, Columns
from gradgeo.watch import Watch, WatchState

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
P_VALUES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        watches: by what each compares the stream with; they are given every p-value, in the order of the batches.
    """

    def __init__(self, watches: Mapping[str, Watch]) -> None:
        self._watches = watches
        self.registry = registry = CollectorRegistry()
        self.info = Info("gradgeo_model", "What is served.", registry=registry)
        self._requests = Counter(
            "gradgeo_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "gradgeo_request_seconds", "From headers to answer, of inference.", buckets=SECONDS, registry=registry
        )
        self._batches = Histogram("gradgeo_batch_rows", "Inputs in a batch.", buckets=ROWS, registry=registry)
        self._inputs = Counter("gradgeo_inputs", "Inputs by verdict.", ["verdict"], registry=registry)
        self._p_values = Histogram("gradgeo_p_value", "p-values of inputs.", buckets=P_VALUES, registry=registry)
        self.queue = Gauge("gradgeo_queue_rows", "Inputs in the queue.", registry=registry)
        self.workers = Gauge("gradgeo_workers", "Workers that are ready.", registry=registry)
        self.restarts = Gauge("gradgeo_worker_restarts", "Restarts of workers.", registry=registry)
        self.lost = Counter("gradgeo_record_lost", "Verdicts that could not be recorded.", registry=registry)
        against = ["against"]
        self._evidence = Gauge(
            "gradgeo_watch_log10", "log10 of the martingale; it alarms at -log10(rate).", against, registry=registry
        )
        self._alarm = Gauge("gradgeo_watch_alarm", "1 once the watch has alarmed.", against, registry=registry)
        self._alarm_at = Gauge("gradgeo_watch_alarm_at", "Inputs seen at the alarm, or 0.", against, registry=registry)
        self._watched = Gauge("gradgeo_watch_inputs", "p-values that the watch has seen.", against, registry=registry)
        for verdict in ("trusted", "flagged", "unjudgeable"):
            self._inputs.labels(verdict)
        for name, watch in watches.items():
            self._show(name, watch.state)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        if route in ("infer", "judge"):
            self._seconds.observe(seconds)

    def batch(self, columns: Columns) -> None:
        """Count a batch of verdicts; its p-values among all calibration inputs, whatever was asked for."""
        p, trusted = np.asarray(columns.get(AMONG_ALL, columns["p_value"])), np.asarray(columns["trusted"])
        known = ~np.isnan(p)
        self._batches.observe(len(p))
        self._inputs.labels("trusted").inc(int(trusted.sum()))
        self._inputs.labels("flagged").inc(int((known & ~trusted).sum()))
        self._inputs.labels("unjudgeable").inc(int((~known).sum()))
        for value in p[known].tolist():
            self._p_values.observe(value)
        for name, watch in self._watches.items():
            self._show(name, watch.update(p))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _show(self, name: str, state: WatchState) -> None:
        self._evidence.labels(name).set(state.evidence)
        self._alarm.labels(name).set(int(state.alarm))
        self._alarm_at.labels(name).set(state.alarm_at or 0)
        self._watched.labels(name).set(state.inputs)
