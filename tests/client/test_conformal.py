"""Conformal intervals from Python: a mapping in place of the level."""

import numpy as np
import pytest

from bmaml_client import Client, InvalidRequest
from bmaml_client.estimators import BMAMLRegressor
from service.settings import Settings
from tests.published import conformal, publish
from tests.service.conftest import serve

X, Y, QUERY = [[-2.0], [0.5], [3.0]], [8.0, 11.5, 9.0], [[0.0], [1.0]]
CONFORMAL = {"level": np.float64(0.9), "method": "conformal"}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("conformal")
    publish(root, "sure", conformal=conformal())
    publish(root, "unsure")
    for running in serve(Settings(store=root, device="cpu")):
        yield running.url


@pytest.mark.parametrize("binary", [False, True])
def test_a_mapping_names_the_method(url, binary):
    with Client(url, binary=binary) as client:
        answer = client.adapt_predict("sure", X, Y, QUERY, interval=CONFORMAL)
        mixture = client.adapt_predict("sure", X, Y, QUERY, interval=0.9)
    assert (answer.interval.method, answer.interval.level) == ("conformal", 0.9)
    half = answer.std * np.where(answer.std < 1.5, 2, 6)
    np.testing.assert_allclose(answer.interval.lower, answer.mean - half, rtol=1e-5)
    np.testing.assert_allclose(answer.interval.upper, answer.mean + half, rtol=1e-5)
    assert mixture.interval.method == "mixture"


def test_the_estimator_takes_the_method(url):
    fitted = BMAMLRegressor("sure", service=url).fit(X, Y)
    with Client(url) as client:
        expected = client.adapt_predict("sure", X, Y, QUERY, interval=CONFORMAL).interval
    found = fitted.predict_interval(QUERY, level=0.9, method="conformal")
    np.testing.assert_allclose(found, np.c_[expected.lower, expected.upper], rtol=1e-4)


def test_a_version_without_calibration_raises_its_sentence(url):
    with Client(url) as client, pytest.raises(InvalidRequest, match="no conformal calibration"):
        client.adapt_predict("unsure", X, Y, QUERY, interval=CONFORMAL)


def test_models_and_cards_say_up_to_which_level(url):
    with Client(url) as client:
        assert client.model("unsure").conformal is None
        assert client.model("sure").conformal.max_level == 0.975
        card = client.version("sure", 1).conformal
        assert client.version("unsure", 1).conformal is None
    assert (card.tasks, card.max_level) == (39, 0.975)
    assert [each.width_below for each in card.groups] == [0.5, None]
    assert card.groups[0].support_rows == (1, 10)
