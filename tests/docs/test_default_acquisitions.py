"""Pages and docstrings name the default acquisitions that the service has."""

import re

import pytest

from bmaml.acquisition import MAX_POOL_TARGETS
from bmaml_client import Client
from service.compute.capabilities import CAPABILITIES
from service.schemas.requests import UncertaintyRequest
from tests.docs.blocks import ROOT

DEFAULTS = {kind: each.default_acquisition for kind, each in CAPABILITIES.items()}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_the_page_of_the_api_marks_the_defaults():
    numbers, _, classes = page("api.md").partition("For classes:\n\n| acquisition")
    assert re.findall(r"^\| `(\w+)` \(default\)", numbers, re.MULTILINE) == [DEFAULTS["regression"]]
    without_target = re.findall(r"^\| `(\w+)` \(default without a target\)", classes, re.MULTILINE)
    assert without_target == [DEFAULTS["classification"]]
    assert f"A pool of more than {MAX_POOL_TARGETS} rows" in numbers


def test_the_measured_tables_mark_the_default_of_numbers():
    marked = set(re.findall(r"\*\*(\w+)\*\* \(default\)", page("active-learning.md")))
    assert marked - {DEFAULTS["classification"]} == {DEFAULTS["regression"]}
    assert f"The default is `{DEFAULTS['regression']}` about the pool" in page("active-learning.md")


def test_no_acquisition_beats_the_default_by_more_than_a_standard_error():
    rows = re.search(r"### All problems, NLL\n\n(.*?)\n\n", page("active-learning.md"), re.DOTALL)
    assert rows is not None
    leads = [line.split("|")[-2].strip() for line in rows[1].splitlines()[2:]]
    assert len(leads) >= 7
    for lead in leads:
        behind = re.match(r"\+([\d.]+) ± ([\d.]+) \(", lead)
        assert lead == "best" or (behind is not None and float(behind[1]) <= float(behind[2]))


@pytest.mark.parametrize(
    "text",
    [Client.uncertainty.__doc__, UncertaintyRequest.model_fields["acquisition"].description],
    ids=["client", "request"],
)
def test_the_client_and_the_request_name_the_defaults(text):
    found = re.search(r"(?:by default|null:) `?(\w+)`?(?: \(|; )for classes.*?`?(\w+)`?[.)]\n?$", text, re.M)
    assert found is not None
    assert found.groups() == (DEFAULTS["regression"], DEFAULTS["classification"])
