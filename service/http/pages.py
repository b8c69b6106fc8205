"""The playground at / and the API explorer at /docs: files read at the start, served from memory."""

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

PLAYGROUND = Path(__file__).parent.parent / "playground"
"""The folder of the files."""
PAGES = {"/": "index.html", "/docs": "explorer/index.html"}
"""Files of the pages, by path."""
MEDIA_TYPES = {".js": "text/javascript", ".svg": "image/svg+xml"}
"""Media types, by suffix, that differ between machines in `mimetypes`."""
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
"""Scripts, styles and requests of this host alone."""
HEADERS = {
    # Browsers revalidate each file, so that a page and its modules never come from two releases.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every file."""


@dataclass(frozen=True)
class Asset:
    """One file, held in memory.

    Attributes:
        etag: changes with the content.
    """

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> "Asset":
        """Read the file at this path."""
        content = path.read_bytes()
        media_type = MEDIA_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
        return cls(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def reply(self, request: Request) -> Response:
        """The file, or 304 where the request's If-None-Match names its etag."""
        headers = {**HEADERS, "ETag": self.etag}
        sent = request.headers.get("if-none-match", "").split(",")
        if {each.strip().removeprefix("W/") for each in sent} & {self.etag, "*"}:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def install(app: FastAPI) -> None:
    """Add routes for the pages, and for their files under /playground/; OpenAPI leaves them out."""
    assets = {
        path.relative_to(PLAYGROUND).as_posix(): Asset.read(path)
        for path in PLAYGROUND.rglob("*")
        if path.is_file()
    }
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    @router.get("/docs")
    async def page(request: Request) -> Response:
        return assets[PAGES[request.scope["route"].path]].reply(request)

    @router.get("/playground/{path:path}")
    async def asset(path: str, request: Request) -> Response:
        if path not in assets:
            raise HTTPException(404)
        return assets[path].reply(request)

    app.include_router(router)
