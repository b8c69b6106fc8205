"""The trade-off of surprise: shares are scaled as told, and the command writes its tables and plot."""

import pytest
import torch

from benchmarks.accuracy.surprise_shares import FACTORS, POINTS, SHIFTS, with_share
from benchmarks.pages import blocks
from bmaml.task import Examples
from model_store import SHIPPED, Model, Store
from tests.benchmarks.running import run


@pytest.fixture(scope="module")
def model() -> Model:
    return Store(SHIPPED).load("sinusoid")


def shares(model: Model) -> torch.Tensor:
    return model.learned["log_shares"].double().exp()


@pytest.mark.parametrize("factor", FACTORS.values())
def test_surprising_shares_are_scaled_and_the_known_one_is_the_rest(model, factor):
    scaled = with_share(model, factor)
    torch.testing.assert_close(shares(scaled)[1:], factor * shares(model)[1:], atol=1e-9, rtol=1e-5)
    assert float(shares(scaled).sum()) == pytest.approx(1, abs=1e-6)
    assert all(scaled.learned[name] is model.learned[name] for name in model.learned if name != "log_shares")


def test_without_a_share_the_belief_is_that_of_the_known_hypotheses(model):
    without = with_share(model, 0)
    x, y = torch.linspace(-2, 2, 5)[None, :, None], torch.ones(1, 5, 1)
    support = Examples.full(x, y)
    found = without.learner.predict(without.learner.adapt(without.learned, support), x)
    expected = model.learner.known.predict(model.learner.known.adapt(model.learned, support), x)
    torch.testing.assert_close(found.mean(), expected.mean())
    torch.testing.assert_close(found.variance(), expected.variance())


def test_a_share_of_more_than_everything_is_refused(model):
    with pytest.raises(ValueError, match="leave nothing"):
        with_share(model, 1000)


def test_the_command_writes_tables_and_plot(tmp_path):
    page, plot = tmp_path / "page.md", tmp_path / "plot.png"
    page.write_text("<!-- measured: surprise-shares: begin -->\n<!-- measured: surprise-shares: end -->\n")
    done = run("accuracy.surprise_shares", "--tasks", "2", "--page", str(page), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    (block,) = blocks(page.read_text())
    assert block.sealed
    for shift in SHIFTS:
        assert block.text.count(f"| {shift} |") == 2 * len(POINTS)
    for name in FACTORS:
        assert block.text.count(f"\n| {name} |") == 2 * len(POINTS)
    assert plot.read_bytes().startswith(b"\x89PNG")
