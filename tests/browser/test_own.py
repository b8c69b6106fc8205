"""Your own: rows in CSV, predictions, and the same request as code."""

import csv
import io
import json
import shlex
import subprocess
import sys

import httpx
import pytest
from playwright.sync_api import expect

DROP = """([type, data]) => {
    const transfer = new DataTransfer();
    transfer.items.add(...(type === "file" ? [new File([data], "rows.csv")] : [data, type]));
    const drop = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
    return document.getElementById("csv").dispatchEvent(drop);
}"""
"""Whether the browser may do with what is dropped as it always does."""
ROWS = "train_size,accuracy\n16,0.62\n32,0.68\n64,0.74\n256,\n1024,\n"


@pytest.fixture
def page(visit):
    page = visit("own")
    expect(page.locator("#own-reading")).to_contain_text("predicted")
    return page


def asked(page, text, words):
    """Type rows; what is said of them."""
    page.locator("#csv").fill(text)
    expect(page.locator("#own-reading")).to_contain_text(words)


def posted(command):
    """The request of a curl command."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["curl", "-s"]
    return httpx.post(
        words[2], content=words[words.index("-d") + 1], headers=dict([words[4].split(": ")]), timeout=60
    )


def test_rows_without_a_label_are_predicted_as_the_service_predicts_them(page, shipped):
    asked(page, ROWS, "2 rows predicted from 3 labelled rows.")
    with page.expect_download() as saved:
        page.click("#own-download")
    table = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert saved.value.suggested_filename == "learning-curves-predictions.csv"
    body = {
        "model": "learning-curves",
        "support": {"x": [[16], [32], [64]], "y": [0.62, 0.68, 0.74]},
        "query": {"x": [[256], [1024]]},
    }
    said = shipped.client.post("/adapt-predict", json=body).json()["prediction"]
    assert [row["line"] for row in table] == ["5", "6"]
    assert [float(row["accuracy_mean"]) for row in table] == pytest.approx(said["mean"], rel=1e-4)
    upper = [float(row["accuracy_upper_90"]) for row in table]
    assert upper == pytest.approx(said["interval"]["upper"], rel=1e-4)
    expect(page.locator("#own-table tbody tr")).to_have_count(2)


def test_curl_and_python_do_what_the_page_did(page):
    asked(page, ROWS.replace("0.62", "0.61"), "2 rows predicted")
    page.select_option("#own-interval", "0.8")
    expect(page.locator("#curl")).to_contain_text('"interval": 0.8')
    reply = posted(page.locator("#curl").inner_text())
    assert reply.status_code == 200
    said = reply.json()["prediction"]
    assert said["interval"]["level"] == 0.8
    program = page.locator("#python").inner_text()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.split("]")[0] + "]") == pytest.approx(said["mean"], rel=1e-4)
    expect(page.locator("#own-table thead")).to_contain_text("accuracy lower 80")


def test_code_is_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-curl")
    expect(page.locator("#copied")).to_contain_text("in the clipboard")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#curl").inner_text()


def test_columns_go_by_name_in_any_order_and_semicolons_bring_decimal_commas(page):
    asked(page, "note;accuracy;train_size;;\na;0,62;16;;\nb;0,7;40;;\nc;;256;;\n", "Not used: note.")
    reply = posted(page.locator("#curl").inner_text())
    sent = json.loads(reply.request.content)
    assert sent["support"] == {"x": [[16], [40]], "y": [0.62, 0.7]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train_size,accuracy\n16,0.6\nmany,\n", "Line 3: “many” in column “train_size” is not a number."),
        ("size,accuracy\n16,0.6\n", "There is no column “train_size” in the first line"),
        ("train_size,accuracy\n16,0.6\n", "Every row has a label"),
        ("train_size,accuracy\n\n", "no rows under the first line"),
        ("", "Paste rows"),
    ],
)
def test_rows_that_cannot_be_read_are_named(page, text, words):
    page.locator("#csv").fill(text)
    expect(page.locator("#own-problem")).to_contain_text(words)
    expect(page.locator("#csv")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#own-download")).to_be_disabled()
    asked(page, ROWS, "predicted")
    expect(page.locator("#own-problem")).to_be_empty()


def test_what_the_service_refuses_is_said_with_the_line(page, visit):
    visit.forgiven.append("status of 422")
    page.locator("#csv").fill(ROWS.replace("1024", "-1024"))
    expect(page.locator("#own-problem")).to_contain_text("Line 6")
    expect(page.locator("#own-problem")).to_contain_text("log2")


def test_a_file_is_opened_and_dropped(page, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    page.locator("#own-file").set_input_files(path)
    expect(page.locator("#csv")).to_have_value(ROWS)
    expect(page.locator("#own-file")).to_have_value("")  # the same file, mended, can be opened again
    assert not page.evaluate(DROP, ["file", ROWS + "2048,\n"])
    expect(page.locator("#own-reading")).to_contain_text("3 rows predicted")
    assert page.evaluate(DROP, ["text/plain", "0.7"])
    expect(page.locator("#csv")).to_have_value(ROWS + "2048,\n")


def test_rows_of_the_reader_stay_when_the_model_changes(page):
    asked(page, ROWS, "2 rows predicted")
    page.select_option("#own-model", "sinusoid")
    expect(page.locator("#own-problem")).to_contain_text("There is no column “x” in the first line")
    expect(page.locator("#csv")).to_have_value(ROWS)
    page.select_option("#own-model", "learning-curves")
    expect(page.locator("#own-reading")).to_contain_text("2 rows predicted")
    page.click("#own-example")
    expect(page.locator("#csv")).not_to_have_value(ROWS)
    page.select_option("#own-model", "sinusoid")
    expect(page.locator("#own-columns")).to_contain_text("Columns: x; y")
    expect(page.locator("#own-reading")).to_contain_text("predicted")


@pytest.mark.parametrize("name", ["omniglot", "sinusoid", "sinusoid-bmaml", "learning-curves-by-classifier"])
def test_every_model_has_an_example_that_works(page, name):
    page.select_option("#own-model", name)
    expect(page.locator("#curl")).to_contain_text(f'"model": "{name}"')
    expect(page.locator("#own-reading")).to_contain_text("predicted from")
    if name == "omniglot":
        expect(page.locator("#own-table")).to_contain_text("hook")
        labels = page.locator("#own-table tbody td:nth-child(2)").all_inner_texts()
        assert labels == ["hook", "balloon"]
        assert posted(page.locator("#curl").inner_text()).json()["prediction"]["label"] == labels
