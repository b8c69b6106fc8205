"""Policies: the page acts the world of training, the service adapts, and the page shows what came of it."""

import json
import math
import re

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from service.settings import Settings
from tests.published import publish, publish_policy
from tests.service.conftest import serve
from training.families.worlds import Navigation, Ring

STEPS_OF_WORLDS = """async ([name, places, actions, goals]) => {
    const { WORLDS } = await import(new URL("playground/policies/worlds.js", document.baseURI));
    const world = WORLDS[name];
    const steps = places.map((place, row) => world.step(place, actions[row], goals[row]));
    return { horizon: world.horizon, steps };
}"""
MAX_STEPS = 300
"""Steps that the service of these tests takes: a round of 4 × 2 episodes of 20 steps, and no second one."""


@pytest.fixture(scope="module")
def served_walkers(tmp_path_factory):
    root = tmp_path_factory.mktemp("walkers")
    publish(root, "tiny")
    publish_policy(root, world="ring", episodes=2)
    publish_policy(root, "strange", world="gym:HalfCheetahDir")
    publish_policy(root, "nameless", world="constructor")
    yield from serve(Settings(store=root, device="cpu", max_episode_steps=MAX_STEPS))


@pytest.fixture
def page(visit, served_walkers):
    page = visit("policies", url=served_walkers.url, reduced_motion="reduce")
    page.select_option("#policies-model", "walker")
    expect(page.locator("#policies-reading")).to_contain_text("4 particles will act 2 episodes each")
    return page


def goal_of(page):
    """The place of the star in the plane, in pixels."""
    box = page.locator("#policies-plane .goal").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def acted(page, rounds=1):
    """Press the button, and wait for the round."""
    page.click("#policies-round")
    expect(page.locator("#policies-reading")).to_contain_text(f"Round {rounds}: ")


@pytest.mark.parametrize("world", [Navigation(), Ring()], ids=["navigation", "ring"])
def test_the_world_of_the_page_is_that_of_training(page, world):
    generator = torch.Generator().manual_seed(0)
    goals = world.tasks(300, generator).double()
    places = goals + 0.3 * torch.randn(300, 2, generator=generator).double()
    actions = 1.5 * torch.randn(300, 2, generator=generator).double()
    actions[:40] = 10 * (goals[:40] - places[:40])  # steps that end at the goal, unless they are too long
    expected = world.step(places, actions, goals)
    found = page.evaluate(
        STEPS_OF_WORLDS,
        [type(world).__name__.lower(), places.tolist(), actions.tolist(), goals.tolist()],
    )
    assert found["horizon"] == world.horizon
    steps = found["steps"]
    np.testing.assert_allclose([each["place"] for each in steps], expected.states, atol=1e-12)
    np.testing.assert_allclose([each["reward"] for each in steps], expected.rewards, atol=1e-12)
    assert [each["ended"] for each in steps] == expected.ended.tolist()
    assert expected.ended.any() == (not world.sparse)
    assert 0 < (expected.rewards > 0).sum() < 300 if world.sparse else (expected.rewards <= 0).all()


def test_a_round_is_acted_posted_and_drawn(page, served_walkers):
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.post_data else None)
    acted(page)
    steps, last = bodies[:-1], bodies[-1]
    assert [len(each["query"]["x"]) for each in steps] == [8] * 20
    episodes = last["support"]["episodes"]
    assert [each["particle"] for each in episodes] == [0, 0, 1, 1, 2, 2, 3, 3]
    angle = math.radians(float(page.locator("#policies-sliders input").input_value()))
    for each in episodes:
        places, actions = (
            torch.tensor(each[name], dtype=torch.float64) for name in ("observations", "actions")
        )
        assert places[0].tolist() == [0.0, 0.0]
        goal = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64).expand(20, 2)
        after = Ring().step(places, actions, goal)
        np.testing.assert_allclose(places[1:], after.states[:-1], atol=1e-12)
        np.testing.assert_allclose(each["rewards"], after.rewards, atol=1e-12)
    said = served_walkers.client.post("/adapt-predict", json=last).json()
    best = 1 + said["prediction"]["particle"]
    expect(page.locator("#policies-reading")).to_contain_text(f"particle {best} returned most")
    expect(page.locator("#policies-particles tr.chosen th")).to_have_text(f"{best} – chosen")
    expect(page.locator("#policies-plane .walk")).to_have_count(8)
    expect(page.locator("#policies-plane .walk.chosen")).to_have_count(2)
    colours = page.locator("#policies-plane .walk").evaluate_all(
        "all => all.map((p) => p.getAttribute('stroke'))"
    )
    assert len(set(colours)) == 4
    expect(page.locator("#policies-returns .returns")).to_have_count(4)
    expect(page.locator("#policies-returns .best")).to_have_count(1)
    expect(page.locator("#policies-found")).to_have_text(re.compile("reward (was|has been) found|No reward"))


def test_the_actions_of_a_round_are_draws_of_their_particles(page, served_walkers):
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.post_data else None)
    acted(page)
    first, last = bodies[0], bodies[-1]
    said = served_walkers.client.post("/adapt-predict", json=first).json()["prediction"]["particles"]
    mean, std = np.array(said["mean"])[:, 0], np.array(said["std"])[:, 0]
    drawn = [np.array(each["actions"]) for each in last["support"]["episodes"]]
    own = np.array([actions[0] for actions in drawn])
    scaled = (own - mean.repeat(2, 0)) / std.repeat(2, 0)
    assert np.abs(scaled).max() < 4
    assert 0.4 < scaled.std() < 1.7
    assert len({round(float(each), 9) for each in scaled.ravel()}) == scaled.size


def test_rounds_go_on_from_the_posterior_until_the_service_takes_no_more(page):
    acted(page)
    expect(page.locator("#policies-round")).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#policies-full")).to_contain_text("300 steps that this service takes of a task")
    page.click("#policies-again")
    expect(page.locator("#policies-reading")).to_contain_text("No episode yet")
    expect(page.locator("#policies-round")).to_have_attribute("aria-disabled", "false")
    expect(page.locator("#policies-full")).to_be_empty()


def test_a_second_round_of_the_shipped_ring_posts_that_round_alone(visit):
    page = visit("policies", reduced_motion="reduce")
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.post_data else None)
    acted(page)
    acted(page, 2)
    first, second = (each for each in bodies if "keep" in each)
    assert {each["round"] for each in first["support"]["episodes"]} == {0}
    assert {each["round"] for each in second["support"]["episodes"]} == {1}
    assert second["posterior"].startswith("post_")
    expect(page.locator("#policies-found")).to_contain_text("The first reward was found in round")
    assert page.locator("#policies-shown option").all_inner_texts() == ["round 1", "round 2"]
    second_paths = page.locator("#policies-plane .walk").first.get_attribute("d")
    page.select_option("#policies-shown", "round 1")
    expect(page.locator("#policies-plane .walk").first).not_to_have_attribute("d", second_paths)


def test_a_lost_posterior_is_made_again_from_all_episodes(visit):
    visit.forgiven.append("status of 410")
    page = visit("policies", reduced_motion="reduce")
    acted(page)
    lost = []

    def once(route):
        if lost:
            route.continue_()
            return
        lost.append(route.request.post_data_json["posterior"])
        problem = {"title": "Gone", "status": 410, "detail": "no longer kept", "errors": []}
        route.fulfill(status=410, content_type="application/problem+json", body=json.dumps(problem))

    page.route("**/adapt-predict", once)
    with page.expect_request("**/posteriors") as again:
        page.click("#policies-round")
    assert len(again.value.post_data_json["support"]["episodes"]) == 50
    expect(page.locator("#policies-reading")).to_contain_text("Round 2: ")
    expect(page.locator("#policies-problem")).to_be_empty()
    assert len(lost) == 1


def test_the_keyboard_places_a_goal_and_acts(page):
    slider = page.get_by_label(re.compile("Angle of the goal"))
    before, place = slider.input_value(), goal_of(page)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == float(before) + 1
    assert goal_of(page) != place
    page.locator("#policies-round").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#policies-reading")).to_contain_text("Round 1: ")
    expect(page.locator("#policies-round")).to_be_focused()
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#policies-reading")).to_contain_text("No episode yet")
    expect(page.locator("#policies-plane .walk")).to_have_count(0)
    expect(page.locator("#policies-shown")).to_be_disabled()


def test_a_click_and_a_drag_put_the_goal_on_the_ring(page):
    surface = page.locator("#policies-plane .surface").bounding_box()
    middle = surface["x"] + surface["width"] / 2, surface["y"] + surface["height"] / 2
    slider = page.locator("#policies-sliders input")
    page.mouse.click(middle[0] + 120, middle[1])
    expect(slider).to_have_value("0")
    page.mouse.move(*goal_of(page))
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] - 100, steps=4)
    page.mouse.move(middle[0], middle[1] - 100)
    page.mouse.up()
    expect(slider).to_have_value("90")


def test_a_goal_that_moves_while_a_round_is_acted_ends_it(page):
    held = []
    page.route("**/adapt-predict", lambda route: held.append(route))
    with page.expect_request("**/adapt-predict"):
        page.click("#policies-round")
    expect(page.locator("#policies-round")).to_have_text("Acting …")
    page.click("#policies-again")
    expect(page.locator("#policies-round")).to_have_text("One more round")
    with page.expect_response("**/adapt-predict"):
        held.pop().continue_()
    page.evaluate("() => fetch('livez').then(() => fetch('livez'))")  # whatever follows has been asked by now
    assert held == []
    expect(page.locator("#policies-reading")).to_contain_text("No episode yet")


def test_refusals_are_sentences(visit, page):
    visit.forgiven.append("status of 422")
    error = {"pointer": "/query/x", "detail": "at most 4 rows"}
    problem = {
        "title": "Invalid",
        "status": 422,
        "detail": "the request body is not valid",
        "errors": [error],
    }
    page.route(
        "**/adapt-predict",
        lambda route: route.fulfill(
            status=422, content_type="application/problem+json", body=json.dumps(problem)
        ),
    )
    page.click("#policies-round")
    expect(page.locator("#policies-problem")).to_have_text("/query/x: at most 4 rows.")
    expect(page.locator("#policies-round")).to_have_attribute("aria-disabled", "false")
    page.unroute("**/adapt-predict")
    acted(page)
    expect(page.locator("#policies-problem")).to_be_empty()


@pytest.mark.parametrize(("name", "world"), [("strange", "gym:HalfCheetahDir"), ("nameless", "constructor")])
def test_a_policy_of_another_world_says_so(page, name, world):
    page.select_option("#policies-model", name)
    expect(page.locator("#policies-problem")).to_contain_text(
        f"that this page cannot act, “{world}”: it knows navigation"
    )
    expect(page.locator("#policies-task")).to_be_hidden()
    page.select_option("#policies-model", "walker")
    expect(page.locator("#policies-task")).to_be_visible()
    expect(page.locator("#policies-problem")).to_be_empty()


def test_a_store_without_policies_says_so(visit, tmp_path):
    publish(tmp_path, "tiny")
    for served in serve(Settings(store=tmp_path, device="cpu")):
        page = visit("policies", url=served.url)
        expect(page.locator("#policies-problem")).to_have_text("This service has no policy.")
        expect(page.locator("#policies-task")).to_be_hidden()
        page.close()
