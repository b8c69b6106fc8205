"""`Client` and `AsyncClient`: the same methods over a blocking and an asynchronous transport."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from bmaml_client import lookups, operations, policies, policy_weights
from bmaml_client.errors import InvalidInput
from bmaml_client.flow import Call, Flow, FlowRun, Requester, Wait, header_value
from bmaml_client.proxies import proxy_for
from bmaml_client.retries import Retries

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_RETRIES = Retries()


class FlowMethod(Generic[P, T]):
    """A flow as a method: `Client` returns its result, `AsyncClient` an awaitable of the result."""

    def __init__(self, flow: Callable[Concatenate[Requester, P], Flow[T]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, client: None, owner: type[Any]) -> Callable[Concatenate[Requester, P], Flow[T]]: ...

    @overload
    def __get__(self, client: "Client", owner: type[Any]) -> Callable[P, T]: ...

    @overload
    def __get__(self, client: "AsyncClient", owner: type[Any]) -> Callable[P, Awaitable[T]]: ...

    def __get__(self, client: Any, owner: type[Any]) -> Any:
        if client is None:
            return self._flow

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.run(self._flow(client.requester, *args, **kwargs))

        method.__name__, method.__doc__ = self._flow.__name__, self._flow.__doc__
        return method


class _BaseClient:
    """Methods and settings of both clients; `operations`, `policies` and `lookups` define the methods."""

    adapt_predict = FlowMethod(operations.adapt_predict)
    uncertainty = FlowMethod(operations.uncertainty)
    keep = FlowMethod(operations.keep)
    adapt_policy = FlowMethod(policies.adapt_policy)
    act = FlowMethod(policies.act)
    posterior = FlowMethod(lookups.posterior)
    policy_weights = FlowMethod(policy_weights.policy_weights)
    forget = FlowMethod(lookups.forget)
    models = FlowMethod(lookups.models)
    model = FlowMethod(lookups.model)
    version = FlowMethod(lookups.version)
    limits = FlowMethod(lookups.limits)
    ready = FlowMethod(lookups.ready)

    def __init__(
        self,
        base_url: str,
        key: str | None,
        retries: Retries | int,
        binary: bool | None,
        draw: Callable[[], float],
        clock: Callable[[], float],
        over_network: bool,
    ) -> None:
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{base_url!r} is not an address: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidInput(f"{base_url!r} is not an address: it starts with http:// or https://")
        self.base_url = base_url
        self.requester = Requester(
            Retries(count=retries) if isinstance(retries, int) else retries,
            binary,
            draw,
            clock,
            proxy_for(url) if over_network else None,
        )
        self._headers = {} if key is None else {"authorization": f"Bearer {header_value('key', key.strip())}"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"


class Client(_BaseClient):
    """A client of the service at an address.

    Threads may share it. Close it, or use it in a `with` statement.

    Args:
        base_url: the service's address.
        key: sent as `Authorization: Bearer`.
        timeout: seconds to wait for a connection, and for each part of an answer.
        retries: limits on repetitions, or only their number.
        binary: whether bodies are safetensors rather than JSON; None decides by size.
        transport, sleep, draw, clock: for tests, and for services that are not reached over a network.

    Raises:
        InvalidInput: the address or the key is not valid.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retries: Retries | int = DEFAULT_RETRIES,
        binary: bool | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(base_url, key, retries, binary, draw, clock, over_network=transport is None)
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=base_url, headers=self._headers, timeout=timeout, transport=transport
        )

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result.

        Raises:
            ClientError: the flow failed.
        """
        running = FlowRun(flow, self.base_url, self.requester.proxy)
        while running.step is not None:
            try:
                running.done(self._do(running.step))
            except httpx.RequestError as error:
                running.failed(error)
        return running.result

    def close(self) -> None:
        """Close the connections."""
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


class AsyncClient(_BaseClient):
    """The asynchronous client: its methods return awaitables, and `async with` closes it."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retries: Retries | int = DEFAULT_RETRIES,
        binary: bool | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(base_url, key, retries, binary, draw, clock, over_network=transport is None)
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=self._headers, timeout=timeout, transport=transport
        )

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result.

        Raises:
            ClientError: the flow failed.
        """
        running = FlowRun(flow, self.base_url, self.requester.proxy)
        while running.step is not None:
            try:
                running.done(await self._do(running.step))
            except httpx.RequestError as error:
                running.failed(error)
        return running.result

    async def close(self) -> None:
        """Close the connections."""
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
