"""The playground at / and the API's explorer at /docs: read once and served from memory."""

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).parent.parent / "playground"
PAGES = {"/": "index.html", "/docs": "explorer/index.html"}
TYPES = {".js": "text/javascript", ".svg": "image/svg+xml"}
"""Where the machine's own table of media types is not to be trusted."""

POLICY = "; ".join(
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
HEADERS = {
    # Browsers ask each time, and are told 304: a page and its modules never come from two releases.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Asset:
    """One file of the page."""

    content: bytes
    media_type: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> "Asset":
        """The file, with a tag that changes when its content does."""
        content = path.read_bytes()
        guessed = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
        return cls(content, guessed, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def reply(self, request: Request) -> Response:
        """The file, or 304 to whoever has it."""
        headers = {**HEADERS, "ETag": self.tag}
        known = {
            tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
        }
        if known & {self.tag, "*"}:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def install(app: FastAPI) -> None:
    """Serve the pages, and their files under /playground/; none is part of the API's description."""
    assets = {
        path.relative_to(FOLDER).as_posix(): Asset.read(path) for path in FOLDER.rglob("*") if path.is_file()
    }
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    @router.api_route("/docs", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return assets[PAGES[request.scope["route"].path]].reply(request)

    @router.api_route("/playground/{path:path}", methods=["GET", "HEAD"])
    async def asset(path: str, request: Request) -> Response:
        if path not in assets:
            raise HTTPException(404)
        return assets[path].reply(request)

    app.include_router(router)
