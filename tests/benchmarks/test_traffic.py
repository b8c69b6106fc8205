"""Mixed traffic gets the statuses that it expects."""

from collections import Counter

import httpx
import pytest

from benchmarks.traffic import AS_EXPECTED, Traffic
from model_store import SHIPPED
from service.settings import Settings
from tests.service.conftest import serve


@pytest.fixture(scope="module")
def url():
    for served in serve(Settings(store=SHIPPED, device="cpu")):
        yield served.url


@pytest.mark.anyio
async def test_every_kind_of_request_goes_as_expected(url):
    outcomes: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        traffic = Traffic(client, 0, outcomes)
        assert sum(weight for weight, _ in traffic.kinds) == pytest.approx(1)
        for _, request in traffic.kinds:
            for _ in range(4):
                await request()
    assert set(outcomes) == {AS_EXPECTED}
