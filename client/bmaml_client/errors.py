"""What can go wrong between a caller and the service, in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

MOST_SHOWN = 5
"""Findings that a message repeats; `errors` has all of them."""


class ClientError(Exception):
    """Everything that this package raises on purpose."""


class InvalidInput(ClientError, ValueError):
    """Rows, labels or settings that could not be sent at all."""


class Unreachable(ClientError, ConnectionError):
    """No answer came: nothing listens there, or the connection broke."""


class TimedOut(ClientError, TimeoutError):
    """The service took the request and did not answer in time."""


class BadReply(ClientError):
    """Something answered that does not speak this interface."""


@dataclass(frozen=True)
class FieldError:
    """One thing that is wrong with a request.

    Attributes:
        pointer: JSON pointer to the value, such as `/query/x/3`.
    """

    pointer: str
    detail: str


class Refused(ClientError):
    """The service said no; the subclass says why.

    Attributes:
        status: of HTTP.
        slug: the last part of the problem's `type`, such as `unknown-model`.
        detail: one sentence.
        errors: what is wrong where.
        request_id: under which the service's log has it.
        retry_after_s: seconds after which to come back, where the service said so.
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
        found = [f"{each.pointer or 'the body'}: {each.detail}" for each in self.errors[:MOST_SHOWN]]
        if len(self.errors) > MOST_SHOWN:
            found.append(f"and {len(self.errors) - MOST_SHOWN} more")
        told = f"{self.detail} ({'; '.join(found)})" if found else self.detail
        return f"{told} [{self.status} {self.slug}, request {self.request_id or 'without an id'}]"


class InvalidRequest(Refused, ValueError):
    """400, 406, 413, 415, 422: the request cannot be answered as it is."""


class Diverged(InvalidRequest):
    """422 diverged: adapting to these rows left the finite numbers."""


class TooLarge(InvalidRequest):
    """413: more bytes, pixels or rows than `limits` allows."""


class Unauthorised(Refused, PermissionError):
    """401, 403: a key is missing, wrong, or not allowed to do this."""


class NotFound(Refused, LookupError):
    """404: no such model, version, posterior or route."""


class UnknownModel(NotFound):
    """404 unknown-model: no such model or version."""


class UnknownPosterior(NotFound):
    """404 unknown-posterior: an id that this service did not issue to this caller."""


class Conflict(Refused):
    """409: the posterior belongs to another model or to other settings."""


class PosteriorGone(Refused):
    """410: the posterior expired, was evicted or forgotten; its rows have to be sent again."""


class TooBusy(Refused):
    """429: too much work is waiting, or too many requests came; `retry_after_s` says when to come back."""


class NotReady(Refused):
    """503: the service starts, stops, or its engine is gone."""


class DeadlinePassed(Refused):
    """504: the deadline passed before the work was started."""


class ServiceFailed(Refused):
    """500 and what is like it: the service's fault."""


BY_SLUG: dict[str, type[Refused]] = {
    "diverged": Diverged,
    "unknown-model": UnknownModel,
    "unknown-posterior": UnknownPosterior,
}
BY_STATUS: dict[int, type[Refused]] = {
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


def kind_of(status: int, slug: str) -> type[Refused]:
    """Which error a problem is."""
    if slug in BY_SLUG:
        return BY_SLUG[slug]
    return BY_STATUS.get(status, ServiceFailed if status >= 500 else InvalidRequest)
