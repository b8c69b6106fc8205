"""Figures that the README and docs/when-not.md tell were measured: the pages of measurements have them."""

import re

import pytest

from tests.docs.blocks import ROOT

MEASURED = ["accuracy", "performance", "classification"]


def numbers(text: str) -> list[str]:
    """Decimal numbers, outside of blocks of code and addresses."""
    text = re.sub(r"^```.*?^```$|\]\([^)]*\)", "", text, flags=re.MULTILINE | re.DOTALL)
    return [found.replace("−", "-").replace(",", "") for found in re.findall(r"[-−]?\d[\d,]*\.\d+", text)]


@pytest.fixture(scope="module")
def measured() -> list[float]:
    pages = " ".join((ROOT / "docs" / f"{name}.md").read_text() for name in MEASURED)
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?", pages.replace("−", "-"))]


@pytest.mark.parametrize("name", ["README.md", "docs/when-not.md"])
def test_every_figure_is_one_that_was_measured_perhaps_rounded(name, measured):
    text = (ROOT / name).read_text()
    told = numbers(text[text.index("## Beside others") :] if name == "README.md" else text)
    assert len(told) > 3
    for figure in told:
        places = len(figure.partition(".")[2])
        assert any(abs(each - float(figure)) <= 0.51 * 10**-places for each in measured), figure
