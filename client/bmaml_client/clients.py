"""`Client` and `AsyncClient`: the same methods over a blocking and an asynchronous transport."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from bmaml_client import lookups, operations
from bmaml_client.errors import InvalidInput
from bmaml_client.flow import Call, Manner, Talk, Turn, Wait, checked
from bmaml_client.retries import Retries

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_S = 30.0
URL = "http://127.0.0.1:8000"
RETRIES = Retries()


class Asked(Generic[P, T]):
    """A talk as a method: of `Client` it returns the result, of `AsyncClient` an awaitable of it."""

    def __init__(self, talk: Callable[Concatenate[Manner, P], Talk[T]]) -> None:
        self._talk = talk
        self.__doc__ = talk.__doc__

    @overload
    def __get__(self, client: None, owner: type[Any]) -> Callable[Concatenate[Manner, P], Talk[T]]: ...

    @overload
    def __get__(self, client: "Client", owner: type[Any]) -> Callable[P, T]: ...

    @overload
    def __get__(self, client: "AsyncClient", owner: type[Any]) -> Callable[P, Awaitable[T]]: ...

    def __get__(self, client: Any, owner: type[Any]) -> Any:
        if client is None:
            return self._talk

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.ask(self._talk(client.manner, *args, **kwargs))

        method.__name__, method.__doc__ = self._talk.__name__, self._talk.__doc__
        return method


class _Methods:
    """What both clients can ask; `operations` and `lookups` describe each."""

    adapt_predict = Asked(operations.adapt_predict)
    uncertainty = Asked(operations.uncertainty)
    keep = Asked(operations.keep)
    posterior = Asked(lookups.posterior)
    forget = Asked(lookups.forget)
    models = Asked(lookups.models)
    model = Asked(lookups.model)
    version = Asked(lookups.version)
    limits = Asked(lookups.limits)
    ready = Asked(lookups.ready)

    def __init__(
        self,
        base_url: str,
        key: str | None,
        retries: Retries | int,
        binary: bool | None,
        draw: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{base_url!r} is no address: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidInput(f"{base_url!r} is no address: it starts with http:// or https://")
        self.base_url = base_url
        self.manner = Manner(
            Retries(count=retries) if isinstance(retries, int) else retries, binary, draw, clock
        )
        self._headers = {} if key is None else {"authorization": f"Bearer {checked('key', key.strip())}"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"


class Client(_Methods):
    """The service at an address. Threads may share one; close it, or use it in a `with` statement.

    Args:
        base_url: where the service is.
        key: sent as `Authorization: Bearer`.
        timeout: seconds to wait for a connection, and for each part of an answer.
        retries: how often and for how long to try again, or only how often.
        binary: whether bodies are safetensors rather than JSON; None decides by size.
        transport, sleep, draw, clock: for tests, and for services that are not reached over a network.

    Raises:
        InvalidInput: an address that is none.
    """

    def __init__(
        self,
        base_url: str = URL,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        retries: Retries | int = RETRIES,
        binary: bool | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(base_url, key, retries, binary, draw, clock)
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=base_url, headers=self._headers, timeout=timeout, transport=transport
        )

    def ask(self, talk: Talk[T]) -> T:
        """Do what a talk asks for, until it returns."""
        turn = Turn(talk, self.base_url)
        while turn.wants is not None:
            try:
                turn.done(self._do(turn.wants))
            except httpx.TransportError as error:
                turn.failed(error)
        return turn.result

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def _do(self, step: Call | Wait) -> httpx.Response | None:
        if isinstance(step, Wait):
            self._sleep(step.seconds)
            return None
        return self._http.request(step.method, step.path, headers=step.headers, content=step.content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Methods):
    """The same for coroutines: every method returns an awaitable, and `async with` closes it."""

    def __init__(
        self,
        base_url: str = URL,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        retries: Retries | int = RETRIES,
        binary: bool | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(base_url, key, retries, binary, draw, clock)
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=self._headers, timeout=timeout, transport=transport
        )

    async def ask(self, talk: Talk[T]) -> T:
        """Do what a talk asks for, until it returns."""
        turn = Turn(talk, self.base_url)
        while turn.wants is not None:
            try:
                turn.done(await self._do(turn.wants))
            except httpx.TransportError as error:
                turn.failed(error)
        return turn.result

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def _do(self, step: Call | Wait) -> httpx.Response | None:
        if isinstance(step, Wait):
            await self._sleep(step.seconds)
            return None
        return await self._http.request(step.method, step.path, headers=step.headers, content=step.content)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
