"""A service with two small policies, beside a model of numbers."""

import pytest

from service.settings import Settings
from tests.published import publish, publish_policy
from tests.service.conftest import serve

MAX_STEPS = 400


@pytest.fixture(scope="package")
def walker(tmp_path_factory):
    """The folder of the store, and the policy in it."""
    root = tmp_path_factory.mktemp("policies")
    publish(root, "tiny")
    return root, publish_policy(root)


@pytest.fixture(scope="package")
def served_policies(walker):
    yield from serve(
        Settings(store=walker[0], device="cpu", max_episode_steps=MAX_STEPS, max_body_bytes=300_000)
    )


@pytest.fixture
def client(served_policies):
    return served_policies.client


@pytest.fixture
def model(walker):
    return walker[1]
