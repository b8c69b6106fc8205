"""POST /uncertainty: what to label next."""

import numpy as np
import pytest

from bmaml.acquisition import MAX_POOL_TARGETS

BODY = {
    "model": "tiny",
    "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]},
    "pool": {"ids": ["a", "b", "c", "d", 5], "x": [[-4.0], [0.1], [3.0], [4.5], [2.0]]},
    "target": {"x": [[0.0], [4.0]]},
    "batch": {"size": 3},
}
ACQUISITIONS = [
    "total_variance",
    "epistemic_variance",
    "entropy",
    "epig",
    "expected_improvement",
    "ucb",
    "random",
]
STRATEGIES = ["auto", "top_k", "power", "max_determinant", "joint_entropy", "joint_epig", "k_centre"]


def post(client, **changes):
    reply = client.post("/uncertainty", json=BODY | changes)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", ["tiny", "bare"])
def test_every_acquisition_goes_with_every_strategy(client, model, acquisition, strategy):
    answer = post(
        client, model=model, acquisition=acquisition, batch={"size": 3, "strategy": strategy}, exclude=["b"]
    )
    assert answer["direction"] == "higher_is_more_informative"
    assert len(answer["scores"]) == 5
    chosen = answer["selected"]
    assert [each["rank"] for each in chosen] == [1, 2, 3]
    assert len({each["id"] for each in chosen}) == 3
    assert "b" not in {each["id"] for each in chosen}
    for each in chosen:
        assert BODY["pool"]["ids"][each["index"]] == each["id"]
        assert each["score"] == answer["scores"][each["index"]]
        assert each["total"] == pytest.approx(each["aleatoric"] + each["epistemic"])


def test_variances_agree_with_the_prediction_of_the_same_rows(client):
    answer = post(client, acquisition="total_variance")
    body = {"model": "tiny", "support": BODY["support"], "query": {"x": BODY["pool"]["x"]}}
    predicted = client.post("/adapt-predict", json=body).json()["prediction"]["variance"]
    np.testing.assert_allclose(answer["scores"], predicted["total"], rtol=1e-5)
    assert answer["units"] == "output units squared"


def test_permuting_the_pool_permutes_the_answer(client):
    order = [3, 0, 4, 2, 1]
    pool = {name: [BODY["pool"][name][i] for i in order] for name in ("ids", "x")}
    for acquisition in ACQUISITIONS:
        for strategy in STRATEGIES:
            batch = {"size": 4, "strategy": strategy, "seed": 3}
            one = post(client, acquisition=acquisition, batch=batch)
            other = post(client, acquisition=acquisition, batch=batch, pool=pool)
            assert [each["id"] for each in one["selected"]] == [each["id"] for each in other["selected"]]
            np.testing.assert_allclose([one["scores"][i] for i in order], other["scores"], rtol=1e-4)


def test_no_more_rows_are_chosen_than_there_are(client):
    answer = post(client, batch={"size": 10}, exclude=["a", 5])
    assert sorted(each["id"] for each in answer["selected"]) == ["b", "c", "d"]
    assert post(client, exclude=["a", "b", "c", "d", 5])["selected"] == []


def test_the_seed_decides_random_choices(client):
    picks = {
        seed: [
            e["id"] for e in post(client, acquisition="random", batch={"size": 5, "seed": seed})["selected"]
        ]
        for seed in range(6)
    }
    assert len({tuple(each) for each in picks.values()}) > 1
    again = post(client, acquisition="random", batch={"size": 5, "seed": 0})["selected"]
    assert [each["id"] for each in again] == picks[0]


def test_bare_particles_report_their_ceiling_and_the_hand_over(client):
    pool = {"x": [[value] for value in np.linspace(-5, 5, 12).tolist()]}
    report = post(client, model="bare", pool=pool, batch={"size": 8, "strategy": "max_determinant"})["batch"]
    assert report == {"strategies_used": ["max_determinant", "k_centre"], "saturated_at": 3, "ceiling": 3}
    assert post(client, pool=pool)["batch"]["ceiling"] is None


def test_the_default_is_epig_with_and_without_a_target(client):
    assert post(client)["acquisition"] == "epig"
    assert post(client, target=None)["acquisition"] == "epig"
    assert client.get("/limits").json()["default_acquisitions"]["regression"] == "epig"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_target_epig_is_about_the_pool(client, strategy):
    batch = {"size": 3, "strategy": strategy}
    of_pool = post(client, target=None, batch=batch)
    named = post(client, target={"x": BODY["pool"]["x"]}, batch=batch)
    np.testing.assert_allclose(of_pool["scores"], named["scores"], rtol=1e-4)
    assert [each["id"] for each in of_pool["selected"]] == [each["id"] for each in named["selected"]]
    assert of_pool["targets"] == named["targets"] == 5


def test_the_answer_tells_how_many_rows_the_scores_are_about(client):
    assert post(client)["targets"] == 2
    assert post(client, acquisition="entropy")["targets"] is None
    rows = MAX_POOL_TARGETS + 20
    x = np.linspace(-5, 5, rows)[:, None].tolist()
    answer = post(client, target=None, pool={"x": x})
    assert answer["targets"] == MAX_POOL_TARGETS
    assert np.isfinite(answer["scores"]).all()
    assert answer["scores"] == post(client, target=None, pool={"x": x})["scores"]


@pytest.mark.parametrize("model", ["tiny", "bare"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pool_of_one_row_has_its_own_information(client, model, strategy):
    answer = post(
        client, model=model, target=None, pool={"x": [[0.3]]}, batch={"size": 2, "strategy": strategy}
    )
    (chosen,) = answer["selected"]
    share = chosen["epistemic"] / chosen["total"]
    assert answer["scores"] == [pytest.approx(-0.5 * np.log1p(-(share**2)), rel=1e-3)]
    assert answer["targets"] == 1


@pytest.mark.parametrize(
    ("acquisition", "strategy"),
    [
        ("epig", "joint_epig"),
        ("epistemic_variance", "max_determinant"),
        ("total_variance", "joint_entropy"),
        ("entropy", "joint_entropy"),
        ("ucb", "power"),
        ("random", "top_k"),
    ],
)
def test_a_batch_is_selected_by_what_its_acquisition_measures(client, acquisition, strategy):
    pool = {"x": np.linspace(-5, 5, 40)[:, None].tolist()}
    answer = post(client, acquisition=acquisition, pool=pool)
    assert answer["batch"]["strategies_used"] == [strategy]
    assert post(client, acquisition=acquisition, pool=pool, batch={"size": 1})["batch"][
        "strategies_used"
    ] == ["top_k"]


def test_a_batch_serves_its_target_rows(client):
    pool = {"x": np.linspace(-5, 5, 41)[:, None].tolist()}
    for target in ([[-4.8], [-4.6]], [[4.6], [4.8]]):
        answer = post(client, pool=pool, target={"x": target})
        chosen = [each["index"] for each in answer["selected"]]
        assert chosen[0] == np.argmax(answer["scores"])
        assert answer["selected"][0]["gain"] == pytest.approx(max(answer["scores"]), rel=1e-3)
        single = post(client, pool=pool, target={"x": target}, batch={"size": 1})
        assert single["selected"][0]["index"] == chosen[0]
    assert chosen != [
        each["index"] for each in post(client, pool=pool, target={"x": [[-4.8], [-4.6]]})["selected"]
    ]


def test_target_rows_that_play_no_part_are_told(client):
    told = "entropy has no target: the target rows played no part"
    assert told in post(client, acquisition="entropy")["diagnostics"]["warnings"]
    for changes in ({"target": None}, {"batch": {"size": 3, "strategy": "joint_epig"}}):
        answer = post(client, **({"acquisition": "entropy"} | changes))
        assert told not in answer["diagnostics"]["warnings"]
    assert not any("target" in each for each in post(client)["diagnostics"]["warnings"])


def test_rows_without_ids_are_called_by_their_index(client):
    answer = post(client, pool={"x": BODY["pool"]["x"]}, exclude=[0])
    assert all(each["id"] == each["index"] != 0 for each in answer["selected"])


@pytest.mark.parametrize(
    ("changes", "pointer", "says"),
    [
        ({"acquisition": "bald"}, "/acquisition", "total_variance"),
        ({"batch": {"strategy": "best"}}, "/batch/strategy", "max_determinant"),
        ({"batch": {"size": 0}}, "/batch/size", "greater than or equal to 1"),
        ({"exclude": ["zz"]}, "/exclude/0", "no such id"),
        ({"pool": {"ids": ["a"], "x": [[1.0], [2.0]]}}, "/pool/ids", "1 ids for 2 rows"),
        ({"pool": {"ids": ["a", "a"], "x": [[1.0], [2.0]]}}, "/pool/ids", "unique"),
        ({"pool": {"x": []}}, "/pool/x", "at least 1 row"),
        ({"target": {"x": [[1.0, 2.0]]}}, "/target/x/0", "2 numbers"),
    ],
)
def test_what_cannot_be_answered_is_a_422_that_points_at_it(client, changes, pointer, says):
    reply = client.post("/uncertainty", json=BODY | changes)
    assert reply.status_code == 422
    (error,) = reply.json()["errors"]
    assert error["pointer"] == pointer
    assert says in error["detail"]
