"""OpenTelemetry traces, where an endpoint for them is configured; elsewhere nothing of it is imported.

The configuration is OpenTelemetry's own: `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) turns it
on, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and the others do what its documentation says.
"""

import importlib
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from bmaml import __version__
from bmaml.errors import BmamlError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
STOP_S = 3.0
PARTS = ("decode", "queue", "embed", "adapt", "predict")
"""Of a request, one after the other."""


class TracingUnavailable(BmamlError):
    """Traces were asked for, and the library is not installed."""


class Tracing:
    """Records a finished request as a span with its parts below it.

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
        parts: Mapping[str, float],
    ) -> str:
        """One request, as the child of the span that its `traceparent` header names.

        Args:
            start_ns, end_ns: since the epoch.
            parts: milliseconds by the names of `PARTS`.

        Returns:
            The id of the trace, in hex.
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
        below = self._api.set_span_in_context(span)
        for part, begun, ended in _laid_out(start_ns, parts):
            self._tracer.start_span(part, context=below, start_time=begun).end(end_time=ended)
        span.end(end_time=end_ns)
        return str(self._api.format_trace_id(span.get_span_context().trace_id))

    def stop(self) -> None:
        """Send what has been recorded, but do not hold up the end of the process for it."""
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(STOP_S)


def tracing() -> Tracing | None:
    """Tracing, if the environment asks for it.

    Raises:
        TracingUnavailable: it does, and the library is not installed.
    """
    wanted = any(os.environ.get(name) for name in ENDPOINTS)
    return Tracing() if wanted and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true" else None


def _laid_out(start_ns: int, parts: Mapping[str, float]) -> Iterator[tuple[str, int, int]]:
    """The parts that took any time, with their beginnings and ends."""
    begun = start_ns
    for part in PARTS:
        ended = begun + round(1e6 * parts.get(part, 0.0))
        if ended > begun:
            yield part, begun, ended
        begun = ended
