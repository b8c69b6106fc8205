"""Handles of kept posteriors: asked again without rows, and with them where the service has forgotten."""

import numpy as np
import pytest

from bmaml_client import Client, ClientError, PosteriorGone, UnknownPosterior
from bmaml_client.in_process import URL, InProcess
from tests.images import random_images

X, Y = np.array([[-2.0], [0.5], [3.0]]), [8.0, 11.5, 9.0]
QUERY = [[0.0], [1.0]]


def test_a_kept_posterior_answers_as_its_rows_would(client):
    kept = client.keep("tiny", X, Y)
    answer = client.adapt_predict("tiny", query=QUERY, posterior=kept)
    np.testing.assert_allclose(answer.mean, client.adapt_predict("tiny", X, Y, QUERY).mean, rtol=1e-4)
    assert (kept.rows, answer.posterior.id, answer.posterior.cache) == (3, kept.id, "hit")
    assert client.keep("tiny", X, Y).id == kept.id


def test_a_posterior_can_be_looked_at_and_forgotten(client):
    kept = client.keep("shapes", random_images(2, 1)[:, 0], ["a", "b"])
    card = client.posterior(kept)
    assert (card.id, card.rows, card.classes, card.model.name) == (kept.id, 2, ("a", "b"), "shapes")
    client.forget(kept)
    client.forget(kept.id)
    with pytest.raises(PosteriorGone):
        client.posterior(kept)


def test_rows_that_the_service_has_forgotten_are_sent_again(client):
    kept = client.keep("tiny", X, Y)
    client.forget(kept)
    answer = client.adapt_predict("tiny", query=QUERY, posterior=kept)
    assert (answer.posterior.id, answer.posterior.rows, answer.posterior.cache) == (kept.id, 3, "miss")
    np.testing.assert_allclose(answer.mean, client.adapt_predict("tiny", X, Y, QUERY).mean, rtol=1e-4)
    client.forget(kept)
    assert client.uncertainty("tiny", pool=QUERY, posterior=answer.posterior).posterior.id == kept.id


def test_rows_are_sent_again_as_they_were_whatever_became_of_the_arrays(client):
    x, y = X.copy(), np.array(Y)
    kept = client.keep("tiny", x, y)
    x[:], y[:] = 99, -1
    client.forget(kept)
    answer = client.adapt_predict("tiny", query=QUERY, posterior=kept)
    assert answer.posterior.id == kept.id


def test_other_steps_than_those_of_the_posterior_are_refused(client):
    kept = client.keep("tiny", X, Y, steps=0)
    assert client.adapt_predict("tiny", query=QUERY, posterior=kept, steps=0).posterior.id == kept.id
    with pytest.raises(ClientError, match="adapted in other steps"):
        client.adapt_predict("tiny", query=QUERY, posterior=kept, steps=3)


def test_an_id_alone_cannot_be_sent_again(client):
    kept = client.keep("tiny", X[:1], Y[:1])
    client.forget(kept)
    with pytest.raises(PosteriorGone):
        client.adapt_predict("tiny", query=QUERY, posterior=kept.id)
    with pytest.raises(UnknownPosterior):
        client.adapt_predict("tiny", query=QUERY, posterior="post_1")


def test_rows_added_to_a_forgotten_posterior_are_sent_with_it(client):
    kept = client.keep("tiny", X[:2], Y[:2])
    more = client.adapt_predict("tiny", X[2:], Y[2:], QUERY, posterior=kept).posterior
    assert (more.rows, len(more.support)) == (3, 3)
    client.forget(kept)
    client.forget(more)
    again = client.adapt_predict("tiny", X[2:], Y[2:], QUERY, posterior=kept)
    assert again.posterior.id == more.id
    client.forget(more)
    assert client.adapt_predict("tiny", query=QUERY, posterior=more).posterior.id == more.id


def test_classes_and_images_are_remembered_too(client):
    images = random_images(3, 2)
    kept = client.keep("shapes", images[:2, 0], ["a", "b"])
    more = client.adapt_predict("shapes", images[2:, 0], ["c"], images[:, 1], posterior=kept)
    client.forget(kept)
    again = client.adapt_predict("shapes", images[2:, 0], ["c"], images[:, 1], posterior=kept)
    assert again.classes == ("a", "b", "c")
    np.testing.assert_allclose(again.probabilities, more.probabilities, rtol=1e-4, atol=1e-6)


def test_the_rows_go_to_the_version_that_had_them(client):
    kept = client.keep("tiny", X, Y, version=1, keep_s=30)
    client.forget(kept)
    answer = client.adapt_predict("tiny", query=QUERY, posterior=kept)
    assert answer.model.version == 1
    assert answer.posterior.id == kept.id


def test_a_service_that_was_started_anew_gets_the_rows_again(small_store):
    first, second = InProcess(small_store), InProcess(small_store)
    try:
        with Client(URL, transport=first) as client:
            kept = client.keep("tiny", X, Y)
        with Client(URL, transport=second) as client:
            answer = client.adapt_predict("tiny", query=QUERY, posterior=kept)
            assert answer.posterior.rows == 3
            assert answer.posterior.id != kept.id
    finally:
        first.stop()
        second.stop()
