"""OpenTelemetry traces. The library is imported only where an endpoint is configured.

The configuration is OpenTelemetry's own: `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) turns
traces on; `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and the others do what its documentation says.
"""

import importlib
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from bmaml import __version__
from bmaml.errors import BmamlError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Environment variables, either of which turns traces on."""
FLUSH_TIMEOUT_S = 3.0
"""Seconds that the end of the process waits for recorded traces to be sent."""
PHASES = ("decode", "queue", "embed", "adapt", "predict")
"""Phases of a request, in order; each is a child span."""


class TracingUnavailable(BmamlError):
    """The environment asks for traces, and OpenTelemetry is not installed."""


class Tracing:
    """Records a finished request as a span, with a child span for each phase.

    Args:
        exporter: an OpenTelemetry span exporter; by default the one that the environment describes.

    Raises:
        TracingUnavailable: OpenTelemetry's SDK or its OTLP exporter is not installed.
    """

    def __init__(self, exporter: Any = None) -> None:
        try:
            sdk = importlib.import_module("opentelemetry.sdk.trace")
            export = importlib.import_module("opentelemetry.sdk.trace.export")
            resources = importlib.import_module("opentelemetry.sdk.resources")
            otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            self._api = importlib.import_module("opentelemetry.trace")
            self._propagate = importlib.import_module("opentelemetry.propagate")
        except ImportError as error:
            raise TracingUnavailable(
                f"{ENDPOINTS[0]} is set, but OpenTelemetry is missing: pip install 'bmaml-service[tracing]'"
            ) from error
        named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "bmaml"), "service.version": __version__}
        self._provider = sdk.TracerProvider(resource=resources.Resource.create(named))
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter or otlp.OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("service", __version__)

    def record(
        self,
        headers: Mapping[bytes, bytes],
        attributes: Mapping[str, str | int],
        start_ns: int,
        end_ns: int,
        phases_ms: Mapping[str, float],
    ) -> str:
        """Record one request, as the child of the span that its `traceparent` header names.

        Args:
            start_ns, end_ns: nanoseconds since the epoch.
            phases_ms: milliseconds by the names of `PHASES`.

        Returns:
            The trace's id in hex.
        """
        carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        name = f"{attributes['http.request.method']} {attributes['http.route']}"
        span = self._tracer.start_span(
            name,
            context=self._propagate.extract(carried),
            kind=self._api.SpanKind.SERVER,
            attributes=dict(attributes),
            start_time=start_ns,
        )
        if int(attributes["http.response.status_code"]) >= 500:
            span.set_status(self._api.StatusCode.ERROR)
        parent = self._api.set_span_in_context(span)
        for phase, begun, ended in _phase_intervals(start_ns, phases_ms):
            self._tracer.start_span(phase, context=parent, start_time=begun).end(end_time=ended)
        span.end(end_time=end_ns)
        return str(self._api.format_trace_id(span.get_span_context().trace_id))

    def stop(self) -> None:
        """Send the recorded traces; give up after `FLUSH_TIMEOUT_S`."""
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(FLUSH_TIMEOUT_S)


def tracing_from_environment() -> Tracing | None:
    """Tracing, if the environment asks for it; else None.

    Raises:
        TracingUnavailable: it does, and OpenTelemetry is not installed.
    """
    wanted = any(os.environ.get(name) for name in ENDPOINTS)
    return Tracing() if wanted and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true" else None


def _phase_intervals(start_ns: int, phases_ms: Mapping[str, float]) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of every phase that took any time, laid end to end."""
    begun = start_ns
    for phase in PHASES:
        ended = begun + round(1e6 * phases_ms.get(phase, 0.0))
        if ended > begun:
            yield phase, begun, ended
        begun = ended
