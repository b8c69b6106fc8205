"""kubectl reads the rendered chart as the manual says, beside a stand-in for the API server of a cluster."""

import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from benchmarks.checks.kubectl_dry_run import KINDS, RENDERED, dry_run
from service.keys import main as new_key
from tests.deploy.conftest import ROOT

PAGE = (ROOT / "docs" / "replicas.md").read_text()
DOCUMENTS = list(yaml.safe_load_all(RENDERED.read_text()))


@pytest.fixture
def kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("needs kubectl")
    return found


def test_kubectl_would_create_every_object_of_the_rendered_chart(kubectl):
    done = dry_run(kubectl, [RENDERED])
    assert done.returncode == 0, done.stderr
    assert f"```text\n{done.stdout}```" in PAGE
    created = re.findall(r"^(\w+)\S*/bmaml created \(dry run\)$", done.stdout, re.MULTILINE)
    assert sorted(created) == sorted(each["kind"].lower() for each in DOCUMENTS)
    assert {(each["apiVersion"], each["kind"]) for each in DOCUMENTS} <= {
        (version, kind) for version, kinds in KINDS.items() for kind in kinds
    }


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("kind: Deployment", "kind: Deploymint", 'no matches for kind "Deploymint"'),
        ("autoscaling/v2", "autoscaling/v2beta2", "no matches for kind"),
        ("  name: bmaml\n", "   name: bmaml\n", "error"),  # no longer YAML
    ],
)
def test_kubectl_refuses_an_unknown_kind_version_and_text(kubectl, tmp_path, right, wrong, complaint):
    planted = tmp_path / "planted.yaml"
    text = RENDERED.read_text()
    assert right in text
    planted.write_text(text.replace(right, wrong))
    done = dry_run(kubectl, [planted])
    assert done.returncode != 0
    assert complaint in done.stderr


def test_the_secret_of_the_manual_has_the_entries_that_the_chart_reads(kubectl, tmp_path, capsys):
    (command,) = re.findall(r"^kubectl create secret .*$", PAGE, re.MULTILINE)
    new_key(["lab-3"])
    (tmp_path / "keys.txt").write_text(capsys.readouterr().out)
    words = shlex.split(command.replace("$(openssl rand -hex 32)", "0123"))
    done = subprocess.run(
        [kubectl, *words[1:], "--dry-run=client", "--output=yaml"],
        cwd=tmp_path,
        env={**os.environ, "KUBECONFIG": os.devnull, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    secret = yaml.safe_load(done.stdout)
    assert (secret["kind"], secret["metadata"]["name"]) == ("Secret", "bmaml")
    (pod,) = (each["spec"]["template"]["spec"] for each in DOCUMENTS if each["kind"] == "Deployment")
    (container,) = pod["containers"]
    read = {each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"] if "valueFrom" in each}
    (mounted,) = (each["secret"]["items"] for each in pod["volumes"] if "secret" in each)
    assert set(secret["data"]) == read | {each["key"] for each in mounted}
