"""docs/errors.md and the code name the same problems."""

import re
from pathlib import Path

from service.errors import KINDS, FieldError, RequestError
from service.http.problems import MAX_PROBLEM_BYTES, document

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
CODE = Path(__file__).parents[2] / "service"


def test_the_page_lists_every_kind_with_its_status_and_meaning():
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert {kind: (int(status), text) for kind, status, text in rows} == KINDS


def test_every_kind_is_raised_somewhere_and_no_other():
    code = "\n".join(file.read_text() for file in CODE.rglob("*.py"))
    raised = set(re.findall(r'RequestError\(\s*"([a-z-]+)"', code)) | {
        "no-such-route",
        "method-not-allowed",
        "http-error",
    }
    assert raised == set(KINDS)


def test_a_reply_stays_small_whatever_it_has_to_say():
    errors = [FieldError(pointer="/ü" * 100, detail="ß" * 300)] * 20
    text = document(RequestError("invalid-request", "é" * 10_000, errors), "f" * 32)
    assert len(text) <= MAX_PROBLEM_BYTES
    assert text.count(b"pointer") >= 1
