"""Client of Label Studio: images, tasks and annotations."""

import base64
import binascii
import posixpath
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from bmaml_client.label_studio.protocol import AnnotatedTask, Identifier, Task

T = TypeVar("T")

MAX_REPLY_BYTES = 50 << 20
JWT_PARTS = 3


class StudioError(RuntimeError):
    """Label Studio does not answer as expected, or the address is not Label Studio's."""


class Studio:
    """Label Studio at its address, which may have a path, with its token; nothing outside of it is asked."""

    def __init__(
        self, url: str, token: str, transport: httpx.AsyncBaseTransport | None = None, timeout_s: float = 30.0
    ) -> None:
        self._url = url.rstrip("/") + "/"
        self._token, self._access = token, ""
        self._http = httpx.AsyncClient(timeout=timeout_s, transport=transport)

    async def image(self, reference: Any) -> bytes:
        """The bytes of an image that a task's data refer to.

        Raises:
            StudioError: the image is on another host, too large, or not available.
        """
        if not isinstance(reference, str) or not reference:
            raise StudioError("the task's data do not name an image")
        if reference.startswith("data:"):
            try:
                return base64.b64decode(reference.partition("base64,")[2], validate=True)
            except (binascii.Error, ValueError):
                raise StudioError("the image's data URI is not base64") from None
        return (await self._get(reference)).content

    async def task(self, number: Identifier) -> dict[str, Any]:
        """The data of a task.

        Raises:
            StudioError: Label Studio does not return the task.
        """
        return _parse(Task, (await self._get(f"api/tasks/{quote(str(number), safe='')}")).content).data

    async def annotated(self, project: str) -> list[AnnotatedTask]:
        """All tasks of a project that have annotations.

        Raises:
            StudioError: Label Studio does not return them.
        """
        export = await self._get(f"api/projects/{quote(project, safe='')}/export?exportType=JSON")
        return _parse(list[AnnotatedTask], export.content)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _get(self, reference: str) -> httpx.Response:
        url = self._absolute(reference)
        try:
            response = await self._http.get(url, headers=await self._headers())
            if response.status_code == 401 and self._access:  # the short-lived token has expired
                self._access = ""
                response = await self._http.get(url, headers=await self._headers())
            response.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise StudioError(f"Label Studio does not return {url.partition('?')[0]}: {error}") from None
        if len(response.content) > MAX_REPLY_BYTES:
            raise StudioError(f"{url.partition('?')[0]} has more than {MAX_REPLY_BYTES} bytes")
        return response

    def _absolute(self, reference: str) -> str:
        """The address of a reference in Label Studio.

        A path may begin with Label Studio's own path, as in data that it stores, or be relative to it.

        Raises:
            StudioError: the address is not below Label Studio's, which alone may get the token.
        """
        try:
            base = urlsplit(self._url)
            if reference.startswith("/") and not reference.startswith((base.path, "//")):
                reference = reference.removeprefix("/")
            url = urljoin(self._url, reference)
            parts = urlsplit(url)
        except ValueError:
            raise StudioError("the task's data name an address that is not valid") from None
        path = posixpath.normpath(unquote(parts.path)) + "/"
        if (parts.scheme, parts.netloc) != (base.scheme, base.netloc) or not path.startswith(base.path):
            raise StudioError(
                f"{url.partition('?')[0]} is not on {self._url}: nothing is fetched from elsewhere"
            )
        return url

    async def _headers(self) -> dict[str, str]:
        """Authorization by a legacy token, or by a short-lived one, for a personal token."""
        if not self._token:
            return {}
        if self._token.count(".") != JWT_PARTS - 1:
            return {"authorization": f"Token {self._token}"}
        if not self._access:
            reply = await self._http.post(f"{self._url}api/token/refresh", json={"refresh": self._token})
            reply.raise_for_status()
            try:
                self._access = str(reply.json()["access"])
            except (KeyError, TypeError, ValueError):
                raise StudioError("Label Studio gives no access token for the personal token") from None
        return {"authorization": f"Bearer {self._access}"}


def _parse(kind: type[T], content: bytes) -> T:
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        raise StudioError(f"Label Studio's answer has another form: {error.errors()[0]['msg']}") from None
