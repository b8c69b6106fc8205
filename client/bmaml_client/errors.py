"""Errors of the client, each with a message that says what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_FIELD_ERRORS_SHOWN = 5
"""Field errors that a message repeats; `errors` has all of them."""


class ClientError(Exception):
    """Base class of every error that this package raises on purpose."""


class InvalidInput(ClientError, ValueError):
    """Rows, labels or settings cannot be sent."""


class Unreachable(ClientError, ConnectionError):
    """No answer came: nothing listens at the address, or the connection broke."""


class TimedOut(ClientError, TimeoutError):
    """The service took the request and did not answer in time."""


class BadReply(ClientError):
    """The reply does not follow the service's interface."""


@dataclass(frozen=True)
class FieldError:
    """One invalid field of a request.

    Attributes:
        pointer: JSON pointer to the value, such as `/query/x/3`.
        detail: one sentence.
    """

    pointer: str
    detail: str


class Refused(ClientError):
    """The service refused the request; the subclass says why.

    Attributes:
        status: HTTP status.
        slug: the last part of the problem's `type`, such as `unknown-model`.
        detail: one sentence.
        errors: the invalid fields.
        request_id: the request's id in the service's log.
        retry_after_s: seconds to wait before the next attempt; None where the service gave no time.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(status, slug, detail, tuple(errors), request_id, retry_after_s)
        self.status, self.slug, self.detail = status, slug, detail
        self.errors, self.request_id, self.retry_after_s = tuple(errors), request_id, retry_after_s

    def __str__(self) -> str:
        fields = [
            f"{each.pointer or 'the body'}: {each.detail}" for each in self.errors[:MAX_FIELD_ERRORS_SHOWN]
        ]
        if len(self.errors) > MAX_FIELD_ERRORS_SHOWN:
            fields.append(f"and {len(self.errors) - MAX_FIELD_ERRORS_SHOWN} more")
        message = f"{self.detail} ({'; '.join(fields)})" if fields else self.detail
        return f"{message} [{self.status} {self.slug}, request {self.request_id or 'without an id'}]"


class InvalidRequest(Refused, ValueError):
    """The service cannot answer this request: 400, 406, 413, 415, 422."""


class Diverged(InvalidRequest):
    """Adapting to these rows gave numbers that are not finite: 422 `diverged`."""


class TooLarge(InvalidRequest):
    """The request has more bytes, pixels or rows than `limits` allows: 413."""


class Unauthorised(Refused, PermissionError):
    """The key is missing, wrong, or not allowed to do this: 401, 403."""


class NotFound(Refused, LookupError):
    """The model, version, posterior or route does not exist: 404."""


class UnknownModel(NotFound):
    """The model or version does not exist: 404 `unknown-model`."""


class UnknownPosterior(NotFound):
    """The service did not issue this posterior's id to this caller: 404 `unknown-posterior`."""


class Conflict(Refused):
    """The posterior belongs to another model or to other settings: 409."""


class PosteriorGone(Refused):
    """The posterior expired, was evicted or was deleted: 410. Send its rows again."""


class TooBusy(Refused):
    """The queue or the rate limit is full: 429. `retry_after_s` says how long to wait."""


class NotReady(Refused):
    """The service starts, stops, or has lost its engine: 503."""


class DeadlinePassed(Refused):
    """The deadline passed before the work was started: 504."""


class ServiceFailed(Refused):
    """The service failed: 500 and other statuses from 500 on."""


ERRORS_BY_SLUG: dict[str, type[Refused]] = {
    "diverged": Diverged,
    "unknown-model": UnknownModel,
    "unknown-posterior": UnknownPosterior,
}
ERRORS_BY_STATUS: dict[int, type[Refused]] = {
    401: Unauthorised,
    403: Unauthorised,
    404: NotFound,
    409: Conflict,
    410: PosteriorGone,
    413: TooLarge,
    429: TooBusy,
    503: NotReady,
    504: DeadlinePassed,
}


def error_class(status: int, slug: str) -> type[Refused]:
    """The class of error for a status and a problem's slug."""
    if slug in ERRORS_BY_SLUG:
        return ERRORS_BY_SLUG[slug]
    return ERRORS_BY_STATUS.get(status, ServiceFailed if status >= 500 else InvalidRequest)
