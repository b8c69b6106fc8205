"""The page shows whatever is in the store, not the shipped models alone."""

import csv
import io
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from model_store.columns import Column
from service.settings import Settings
from tests.class_tables import publish_class_table
from tests.images import publish_classifier
from tests.published import KINDS, SIZE, X, Y, Z, publish
from tests.service.conftest import serve

METALS = ("steel", "tin")
SWITCHES = ("on=False", "on=True", "y=b=a", "y=b=A")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    publish(root, "tiny")
    publish(root, "wide", inputs=(X, SIZE), outputs=(Y, Z))
    publish(root, "metals", inputs=(X, *(Column(name=f"metal={name}", lower=0, upper=1) for name in METALS)))
    publish(root, "switches", inputs=tuple(Column(name=name, lower=0, upper=1) for name in SWITCHES))
    publish_classifier(root, "photographs", channels=3)
    publish_class_table(root, "grades")
    publish_class_table(root, "passed", (False, True))
    publish_class_table(root, "scores", (0.5, 1, 1.5), ordered=True)
    publish_class_table(root, "vectors", None, learner="conjugate")
    for served in serve(Settings(store=root, device="cpu")):
        yield served.url


@pytest.fixture(scope="module")
def kinds_url(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    for name, column in KINDS.items():
        publish(root, name, outputs=(column,))
    for served in serve(Settings(store=root, device="cpu")):
        yield served.url


def test_a_model_without_examples_starts_with_its_prior(visit, url):
    page = visit(url=url)
    expect(page.locator("#reading")).to_contain_text("the support set is empty")
    expect(page.locator("#random")).to_be_disabled()
    expect(page.locator("#truth")).to_be_disabled()
    expect(page.locator("#example-about")).to_contain_text("add points of your own")
    expect(page.locator("#label-next-hint")).to_contain_text("click in the chart")
    options = page.locator("#curves-model option").all_inner_texts()
    assert options == ["tiny"]
    page.locator("#belief .surface").click(position={"x": 200, "y": 100})
    expect(page.locator("#reading")).to_contain_text("1 point;")


@pytest.mark.parametrize("name", KINDS)
def test_bands_and_points_of_a_target_lie_in_its_domain(visit, kinds_url, name):
    page = visit(url=kinds_url)
    page.select_option("#curves-model", name)
    target = KINDS[name].target
    if target.kind != "real":
        expect(page.locator("#curves-about")).to_contain_text("Labels and answers are")
    for points, y in enumerate((5, 150, 315), 1):
        page.locator("#belief .surface").click(position={"x": 100 + y, "y": y})
        expect(page.locator("#reading")).to_contain_text(f"{points} point{'s' * (points > 1)};")
    expect(page.locator("#curves-problem")).to_be_empty()
    fields = page.locator("#points-table input").evaluate_all("all => all.map((field) => field.value)")
    labels = np.array([float(value) for value in fields[1:6:2]])
    assert not target.outside(labels).any()
    low, high = page.locator("#belief .surface").evaluate(
        "surface => { const b = surface.getBBox(); return [b.y, b.y + b.height]; }"
    )
    for band in ("band-90", "band-50", "mean"):
        path = page.locator(f"#belief .{band}").get_attribute("d")
        assert "NaN" not in path
        heights = [float(y) for y in re.findall(r",(-?[\d.]+)", path)]
        if target.low is not None and KINDS[name].transform != "log":
            assert max(heights) <= high + 1
        if target.high is not None:
            assert min(heights) >= low - 1


def test_nothing_is_edited_until_the_chosen_model_is_there(visit, kinds_url):
    page = visit(url=kinds_url)
    expect(page.locator("#reading")).to_contain_text("the support set is empty")
    held = []
    page.route("**/learning-curves.json", lambda route: held.append(route))
    page.select_option("#curves-model", "points")
    expect(page.locator("#belief[inert]")).to_be_visible()
    for control in (
        "points-table",
        "random",
        "clear-points",
        "label-next",
        "particles",
        "steps",
        "acquisition",
    ):
        expect(page.locator(f"#{control}[inert]")).to_have_count(1)
    page.locator("#belief .surface").click(position={"x": 105, "y": 5}, force=True)
    while not held:
        page.wait_for_timeout(0)
    held[0].continue_()
    page.locator("#belief .surface").click(position={"x": 250, "y": 150})
    expect(page.locator("#reading")).to_contain_text("1 point;")


def test_a_model_whose_examples_cannot_be_loaded_is_told(visit, kinds_url):
    page = visit(url=kinds_url)
    expect(page.locator("#reading")).to_contain_text("the support set is empty")
    visit.forgiven.append("Failed to load resource")
    page.route("**/learning-curves.json", lambda route: route.fulfill(status=500))
    page.select_option("#curves-model", "points")
    expect(page.locator("#example-about")).to_contain_text("cannot be loaded: add points of your own. 500")
    page.locator("#belief .surface").click(position={"x": 250, "y": 150})
    expect(page.locator("#reading")).to_contain_text("1 point;")
    page.click("#clear-points")
    expect(page.locator("#reading")).to_contain_text("the support set is empty")


def test_examples_that_fail_for_a_model_no_longer_chosen_change_nothing(visit, kinds_url):
    page = visit(url=kinds_url)
    expect(page.locator("#reading")).to_contain_text("the support set is empty")
    visit.forgiven.append("Failed to load resource")
    held = []
    page.route("**/learning-curves.json", lambda route: held.append(route))
    for count, name in enumerate(("points", "units"), 1):
        page.select_option("#curves-model", name)
        while len(held) < count:
            page.wait_for_timeout(0)
    held[1].continue_()
    expect(page.locator("#reading")).to_contain_text("the support set is empty")
    with page.expect_response("**/learning-curves.json"):
        held[0].fulfill(status=500)
    page.evaluate("() => fetch('livez').then(() => fetch('livez'))")  # whatever follows has been shown by now
    expect(page.locator("#example-about")).not_to_contain_text("500")
    expect(page.locator("#reading")).to_contain_text("the support set is empty")


def test_an_example_that_comes_late_does_not_replace_what_was_written_meanwhile(visit, kinds_url):
    page = visit("own", url=kinds_url)
    expect(page.locator("#own-reading")).to_contain_text("predicted")
    page.evaluate(
        """() => {
            const model = document.getElementById("own-model");
            model.value = "units";
            model.dispatchEvent(new Event("change"));
            const text = document.getElementById("csv");
            text.value = "x,units\\n0.5,9\\n1.5,\\n";
            text.dispatchEvent(new Event("input"));
        }"""
    )
    expect(page.locator("#own-reading")).to_contain_text("1 row predicted from 1 labelled row.")
    expect(page.locator("#csv")).to_have_value("x,units\n0.5,9\n1.5,\n")


def test_the_page_names_the_values_of_a_target_beside_its_column(visit, kinds_url):
    page = visit("own", url=kinds_url)
    page.select_option("#own-model", "units")
    expect(page.locator("#own-columns")).to_contain_text("x; units (whole numbers from 0), empty in the rows")
    page.locator("#csv").fill("x,units\n0.5,9\n1.5,\n")
    expect(page.locator("#own-reading")).to_contain_text("1 row predicted from 1 labelled row.")
    visit.forgiven.append("status of 422")
    page.locator("#csv").fill("x,units\n0.5,2.5\n1.5,\n")
    expect(page.locator("#own-problem")).to_contain_text("takes whole numbers from 0 up")


def test_several_inputs_and_outputs_have_a_column_each(visit, url):
    page = visit("own", url=url)
    page.select_option("#own-model", "wide")
    page.locator("#csv").fill("size,z,x,y\n64,-1,0.5,9\n64,,1.5,\n128,,2,\n")
    expect(page.locator("#own-reading")).to_contain_text("2 rows predicted from 1 labelled row.")
    with page.expect_download() as saved:
        page.click("#own-download")
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert [row["size"] for row in rows] == ["64", "128"]
    for name in ("y", "z"):
        assert all(float(row[f"{name}_lower_90"]) < float(row[f"{name}_upper_90"]) for row in rows)
    page.locator("#csv").fill("size,z,x,y\n64,-1,0.5,\n64,,1.5,\n")
    expect(page.locator("#own-problem")).to_have_text("Line 2 has a label in some columns and not in others.")


def test_a_column_of_texts_stands_for_one_input_per_value(visit, url):
    page = visit("own", url=url)
    page.select_option("#own-model", "metals")
    expect(page.locator("#own-columns")).to_contain_text("Columns: x, metal (steel, tin); y,")
    expect(page.locator("#own-reading")).to_contain_text("5 rows predicted from 0 labelled rows.")
    lines = page.locator("#csv").input_value().splitlines()
    assert lines[0] == "x,metal,y"
    assert [line.split(",")[1] for line in lines[1:]] == ["steel", "tin", "steel", "tin", "steel"]
    page.locator("#csv").fill("metal,x,y,note\nsteel,0.5,9,a\ntin,1.5,,b\n")
    expect(page.locator("#own-reading")).to_contain_text("predicted from 1 labelled row. Not used: note.")
    expect(page.locator("#curl")).to_contain_text('"support": {"x":[[0.5,1,0]],"y":[9]}')
    expect(page.locator("#curl")).to_contain_text('"query": {"x":[[1.5,0,1]]}')
    assert page.locator("#own-table th").all_inner_texts()[:3] == ["line", "x", "metal"]
    assert page.locator("#own-table tbody td").all_inner_texts()[:3] == ["3", "1.5", "tin"]
    page.locator("#csv").fill("metal,x,y\nsteel,0.5,9\ngold,1.5,\n")
    told = "Line 3: “gold” in column “metal” is none of “steel”, “tin”."
    expect(page.locator("#own-problem")).to_have_text(told)
    page.locator("#csv").fill("x,y\n0.5,9\n1.5,\n")
    told = "There is no column “metal” in the first line; it has “x”, “y”."
    expect(page.locator("#own-problem")).to_have_text(told)
    page.locator("#csv").fill("metal,x,y,metal=Steel\nTin,0.5,9,1\ntin,1.5,,0\n")  # a column of its own
    expect(page.locator("#curl")).to_contain_text('"support": {"x":[[0.5,1,1]],"y":[9]}')


def test_texts_differ_in_case_where_the_model_says_so(visit, url):
    page = visit("own", url=url)
    page.select_option("#own-model", "switches")
    page.locator("#csv").fill("on,y,y=b\ntrue,9,a\nFalse,,A\n")
    expect(page.locator("#curl")).to_contain_text('"support": {"x":[[0,1,1,0]],"y":[9]}')
    expect(page.locator("#curl")).to_contain_text('"query": {"x":[[1,0,0,1]]}')


def test_without_a_model_of_drawings_the_tab_says_so(visit, url):
    page = visit("draw", url=url)
    expect(page.locator("#draw-problem")).to_have_text("This service has no model of drawings.")


def test_images_without_examples_ask_for_rows(visit, url):
    page = visit("own", url=url)
    page.select_option("#own-model", "photographs")
    expect(page.locator("#csv")).to_have_value("image,label\n")
    expect(page.locator("#own-problem")).to_contain_text("no rows under the first line")
    expect(page.locator("#own-columns")).to_contain_text("base64")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("grades", "outcome (fails, passes, repeats)"),
        ("passed", "outcome (false, true)"),
        ("scores", "outcome (0.5, 1, 1.5)"),
        ("vectors", "x, size; outcome,"),
    ],
)
def test_classes_of_a_table_have_an_example_and_bars(visit, url, name, told):
    page = visit("own", url=url)
    page.select_option("#own-model", name)
    expect(page.locator("#own-columns")).to_contain_text(told)
    expect(page.locator("#curl")).to_contain_text(f'"model": "{name}"')
    expect(page.locator("#own-reading")).to_contain_text("5 rows predicted from 3 labelled rows.")
    expect(page.locator("#own-problem")).to_be_empty()
    header = page.locator("#own-table th").all_inner_texts()
    assert header[:4] == ["line", "x", "size", "label"]
    assert ("median" in header) is (name == "scores")
    assert page.locator("#own-interval").is_disabled() is (name != "scores")
    classes = [each for each in header if each.startswith("p ")]
    shares = page.locator("#own-table tbody tr:first-child td.share")
    expect(shares).to_have_count(len(classes))
    wide = shares.evaluate_all("all => all.map((td) => parseFloat(td.style.getPropertyValue('--share')))")
    assert sum(wide) == pytest.approx(100, abs=0.01)
    for column in ("x", "size"):
        page.select_option("#own-along-input", column)
        chart = page.locator("#own-along svg[role=img]")
        expect(chart).to_have_attribute(
            "aria-label", re.compile(f"Probabilities along {column}: most probable are")
        )
        layers = page.locator("#own-along path.class-share")
        expect(layers).to_have_count(len(classes))
        assert not [each for each in layers.evaluate_all("all => all.map(p => p.outerHTML)") if "NaN" in each]
    assert page.locator("#own-along-legend li").all_inner_texts() == [each[2:] for each in classes]
    page.locator("#csv").fill("")
    expect(page.locator("#own-along-card")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_chart_of_classes(visit, url, scheme):
    page = visit("own", url=url, color_scheme=scheme, reduced_motion="reduce")
    page.select_option("#own-model", "grades")
    expect(page.locator("#own-along path.class-share")).to_have_count(3)
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()


def test_numbers_have_no_chart_of_classes(visit, url):
    page = visit("own", url=url)
    expect(page.locator("#own-reading")).to_contain_text("predicted")
    expect(page.locator("#own-along-card")).to_be_hidden()


def test_labels_are_sent_in_the_type_of_the_model(visit, url):
    page = visit("own", url=url)
    page.select_option("#own-model", "passed")
    page.locator("#csv").fill("x,size,outcome\n0.5,32,True\n1,64,false\n2,64,\n")
    expect(page.locator("#own-reading")).to_contain_text("1 row predicted from 2 labelled rows.")
    expect(page.locator("#curl")).to_contain_text('"y":[true,false]')
    expect(page.locator("#python")).to_contain_text('"y":[True,False]')
    page.locator("#csv").fill("x,size,outcome\n0.5,32,yes\n2,64,\n")
    told = "Line 2: “yes” in column “outcome” is none of “false”, “true”."
    expect(page.locator("#own-problem")).to_have_text(told)
    page.select_option("#own-model", "scores")
    page.locator("#csv").fill("x,size,outcome\n0.5,32,1.0\n1,64,1.5\n2,64,\n")
    expect(page.locator("#curl")).to_contain_text('"y":[1,1.5]')
    page.select_option("#own-interval", "0.5")
    expect(page.locator("#own-table th").get_by_text("lower 50", exact=True)).to_be_visible()
