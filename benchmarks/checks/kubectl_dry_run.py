"""`kubectl apply --dry-run=client` without a cluster: kubectl reads each document, and knows its kind.

    python -m benchmarks.checks.kubectl_dry_run [FILE ...]

kubectl asks an API server which kinds there are, and whether each object exists. A stand-in on the loopback
interface answers both: it knows the kinds of `KINDS`, and holds no object. The exit status is kubectl's. The
fields of the documents are not checked (`--validate=false`): kubectl leaves that to a cluster, and the tests
to `kubernetes-validate`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks import command_line
from benchmarks.processes import ROOT

RENDERED = ROOT / "deploy" / "kubernetes" / "bmaml.yaml"
KINDS = {
    "v1": {
        "ConfigMap": "configmaps",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Secret": "secrets",
        "Service": "services",
    },
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "networking.k8s.io/v1": {"Ingress": "ingresses"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
}
"""Kinds by the version of their interface, each with its resource's name: those that every cluster has."""
VERBS = ["create", "delete", "get", "list", "patch", "update"]


def resources(version: str) -> dict[str, Any]:
    """The kinds of one version, as discovery lists them."""
    listed = [
        {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}
        for kind, name in KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}


def groups() -> dict[str, Any]:
    """The named groups, each with its one version."""
    listed = []
    for version in KINDS:
        name, slash, number = version.partition("/")
        if slash:
            each = {"groupVersion": version, "version": number}
            listed.append({"name": name, "versions": [each], "preferredVersion": each})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def answer(path: str) -> tuple[int, dict[str, Any]]:
    """Status and body of a GET: discovery, or an object that is not there."""
    if path == "/api":
        return 200, {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return 200, groups()
    prefix, _, version = path.removeprefix("/").partition("/")
    if prefix in ("api", "apis") and version in KINDS:
        return 200, resources(version)
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
    return 404, status | {"message": f"{path} is not here"}


class Handler(BaseHTTPRequestHandler):
    """The stand-in: it answers GET alone, so that nothing could be changed."""

    def do_GET(self) -> None:  # named by the standard library
        """Answer one question."""
        status, body = answer(self.path.partition("?")[0])
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing: kubectl says what it found."""


@contextmanager
def stand_in() -> Iterator[str]:
    """The address of a stand-in that answers until the end of the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def dry_run(kubectl: str, files: list[Path]) -> subprocess.CompletedProcess[str]:
    """What kubectl says of the files. No cluster of the user's is asked."""
    with tempfile.TemporaryDirectory() as folder, stand_in() as address:
        command = [kubectl, "apply", "--dry-run=client", "--validate=false", f"--server={address}"]
        named = [f"--filename={each}" for each in files]
        environment = {**os.environ, "KUBECONFIG": os.devnull, "HOME": folder}
        return subprocess.run(
            [*command, *named], env=environment, capture_output=True, text=True, check=False
        )


def main() -> None:
    """Run kubectl, and print what it says."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("files", nargs="*", type=Path, default=[RENDERED], metavar="FILE")
    files = arguments.parse_args().files
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise SystemExit("kubectl is not on the PATH: https://kubernetes.io/docs/tasks/tools/")
    done = dry_run(kubectl, files)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
