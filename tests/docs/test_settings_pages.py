"""The tables of settings and what the service reads are one."""

import json
import re

from bmaml.learners import LEARNERS
from bmaml_client.label_studio.settings import Settings as LabelStudioSettings
from service.settings import Settings
from tests.docs.blocks import ROOT

DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
SPOKEN = {
    "": "none",
    "None": "none",
    "store": "the shipped versions",
    "secret": "random",
}
"""Defaults that the page says in words."""


def test_the_page_of_deployment_lists_every_setting_with_its_default():
    found = dict(re.findall(r"^\| `BMAML_(\w+)` \| ([^|]*?) \| [^|]+ \|$", DEPLOYMENT, re.MULTILINE))
    assert set(found) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = getattr(field.default, "get_secret_value", lambda field=field: field.default)()
        said = SPOKEN.get(name) or SPOKEN.get(str(default)) or json.dumps(default).strip('"')
        assert found[name.upper()].replace(" ", "") == said.replace(" ", ""), name


def test_the_page_of_label_studio_lists_every_setting():
    page = (ROOT / "docs" / "label-studio.md").read_text()
    found = {name.lower() for name in re.findall(r"`(?:BMAML_LABEL_STUDIO_|…_)(\w+)`", page)}
    assert found == set(LabelStudioSettings.model_fields)


def test_the_page_of_training_names_every_learner():
    page = (ROOT / "docs" / "training.md").read_text() + (ROOT / "docs" / "classification.md").read_text()
    for learner in LEARNERS:
        assert f"`{learner}`" in page
