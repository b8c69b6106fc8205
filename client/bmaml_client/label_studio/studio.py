"""Label Studio's own interface: the pictures, tasks and annotations that it holds."""

import base64
import binascii
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from bmaml_client.label_studio.protocol import AnnotatedTask, Identifier, Task

T = TypeVar("T")

MOST_BYTES = 50 << 20
"""Of one picture."""
JWT_PARTS = 3


class StudioError(RuntimeError):
    """Label Studio does not give what it was asked for, or must not be asked for it."""


class Studio:
    """Label Studio at its address, with its token. Nothing is fetched from anywhere else."""

    def __init__(
        self, url: str, token: str, transport: httpx.AsyncBaseTransport | None = None, timeout_s: float = 30.0
    ) -> None:
        self._url = url.rstrip("/") + "/"
        self._token, self._access = token, ""
        self._http = httpx.AsyncClient(timeout=timeout_s, transport=transport)

    async def picture(self, reference: Any) -> bytes:
        """The bytes of a picture that a task's data refer to.

        Raises:
            StudioError: it lies on another host, is too large, or cannot be had.
        """
        if not isinstance(reference, str) or not reference:
            raise StudioError("the task's data do not name a picture")
        if reference.startswith("data:"):
            try:
                return base64.b64decode(reference.partition("base64,")[2], validate=True)
            except (binascii.Error, ValueError):
                raise StudioError("the picture's data URI is not base64") from None
        return (await self._got(reference)).content

    async def task(self, number: Identifier) -> dict[str, Any]:
        """The data of a task.

        Raises:
            StudioError: it cannot be had.
        """
        return _read(Task, (await self._got(f"api/tasks/{quote(str(number), safe='')}")).content).data

    async def annotated(self, project: str) -> list[AnnotatedTask]:
        """All tasks of a project that have annotations.

        Raises:
            StudioError: they cannot be had.
        """
        found = await self._got(f"api/projects/{quote(project, safe='')}/export?exportType=JSON")
        return _read(list[AnnotatedTask], found.content)

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def _got(self, reference: str) -> httpx.Response:
        url = urljoin(self._url, reference.removeprefix("/") if reference.startswith("/") else reference)
        if _origin(url) != _origin(self._url):
            raise StudioError(
                f"{url.partition('?')[0]} is not on {self._url}: nothing is fetched from elsewhere"
            )
        try:
            response = await self._http.get(url, headers=await self._headers())
            if response.status_code == 401 and self._access:  # a short-lived token has run out
                self._access = ""
                response = await self._http.get(url, headers=await self._headers())
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise StudioError(f"Label Studio does not give {url.partition('?')[0]}: {error}") from None
        if len(response.content) > MOST_BYTES:
            raise StudioError(f"{url.partition('?')[0]} has more than {MOST_BYTES} bytes")
        return response

    async def _headers(self) -> dict[str, str]:
        """A personal token buys a short-lived one; a legacy token is sent as it is."""
        if not self._token:
            return {}
        if self._token.count(".") != JWT_PARTS - 1:
            return {"authorization": f"Token {self._token}"}
        if not self._access:
            bought = await self._http.post(f"{self._url}api/token/refresh", json={"refresh": self._token})
            bought.raise_for_status()
            self._access = str(bought.json()["access"])
        return {"authorization": f"Bearer {self._access}"}


def _read(kind: type[T], content: bytes) -> T:
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        raise StudioError(f"Label Studio answers something else: {error.errors()[0]['msg']}") from None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
