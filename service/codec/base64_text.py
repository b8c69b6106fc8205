"""Base64 text of a request, decoded."""

import base64
import binascii

from service.errors import invalid_at


def decoded_base64(text: str, pointer: str) -> bytes:
    """The bytes that the text encodes; line breaks, as MIME and `base64` write them, are skipped.

    Raises:
        RequestError: 422 at `pointer` for other text.
    """
    if "\n" in text or "\r" in text:
        text = text.replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_at(pointer, "not base64") from None
