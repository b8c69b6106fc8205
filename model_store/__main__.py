"""`bmaml-store list | show | verify | push | remove`: look after published versions, here and elsewhere."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bmaml.errors import BmamlError
from model_store.address import is_address
from model_store.mirror import Mirror
from model_store.remote import RemoteStore
from model_store.store import SHIPPED, Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 1 where a version is bad or missing."""
    options = _parser().parse_args(arguments)
    try:
        status = int(options.command(options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BmamlError as error:
        print(f"bmaml-store: {error}", file=sys.stderr)
        return 1


@contextmanager
def _opened(location: str) -> Iterator[Store]:
    """The store at a location; one elsewhere is downloaded into a folder that is removed afterwards."""
    if not is_address(location):
        yield Store(Path(location))
        return
    with TemporaryDirectory() as folder:
        mirror = Mirror(RemoteStore(location), Path(folder))
        mirror.refresh()
        yield mirror.store


def _list(options: argparse.Namespace) -> int:
    with _opened(options.store) as store:
        return _listed(store)


def _listed(store: Store) -> int:
    print(f"{'name':<24} {'version':>7}  {'learner':<10} {'particles':>9}  metrics")
    failures = 0
    for name in store.names():
        for version in store.versions(name):
            try:
                model = store.load(name, version)
            except BmamlError as error:
                failures += 1
                print(f"{name:<24} {version:>7}  refused: {error}")
                continue
            shown = "  ".join(f"{key} {value:.4g}" for key, value in model.manifest.metrics.items())
            learner = model.learner
            print(f"{name:<24} {version:>7}  {learner.name:<10} {learner.particles:>9}  {shown}")
    return int(failures > 0)


def _show(options: argparse.Namespace) -> int:
    with _opened(options.store) as store:
        model = store.load(options.name, options.version)
        if options.card:
            print(store.card(options.name, options.version))
        else:
            print(model.manifest.model_dump_json(indent=2))
    return 0


def _verify(options: argparse.Namespace) -> int:
    with _opened(options.store) as store:
        return _verified(store, options)


def _verified(store: Store, options: argparse.Namespace) -> int:
    names = [options.name] if options.name else store.names()
    bad = 0
    for name in names:
        for version in store.versions(name):
            if options.version not in (None, version):
                continue
            try:
                model = store.load(name, version)
            except BmamlError as error:
                bad += 1
                print(f"BAD  {error}")
            else:
                print(f"ok   {name} version {version}  sha256 {model.sha256[:12]}")
    if options.name and (options.version is not None or not store.versions(options.name)):
        store.load(options.name, options.version)
    return int(bad > 0)


def _push(options: argparse.Namespace) -> int:
    with _opened(options.store) as store:
        number = RemoteStore(options.to).publish(store, options.name, options.version)
    print(f"published {options.name} version {number} in {options.to}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    store = RemoteStore(options.store) if is_address(options.store) else Store(Path(options.store))
    store.remove(options.name, options.version)
    print(f"removed {options.name} version {options.version}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bmaml-store", description=__doc__)
    parser.add_argument(
        "--store",
        default=os.environ.get("BMAML_STORE", str(SHIPPED)),
        help="the store's folder or address (default: $BMAML_STORE, else the shipped versions)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="every version, with its metrics").set_defaults(command=_list)
    show = commands.add_parser("show", help="one version's manifest or card")
    show.add_argument("name")
    show.add_argument("version", type=int, nargs="?", help="default: the newest")
    show.add_argument("--card", action="store_true", help="the model card instead of the manifest")
    show.set_defaults(command=_show)
    verify = commands.add_parser("verify", help="read whole versions and check every digest")
    verify.add_argument("name", nargs="?", help="default: all models")
    verify.add_argument("version", type=int, nargs="?", help="default: all versions")
    verify.set_defaults(command=_verify)
    push = commands.add_parser(
        "push", help="copy one version to a store elsewhere, under the next number there"
    )
    push.add_argument("name")
    push.add_argument("version", type=int, nargs="?", help="default: the newest")
    push.add_argument("--to", required=True, metavar="ADDRESS", help="such as s3://bucket/models")
    push.set_defaults(command=_push)
    remove = commands.add_parser("remove", help="remove one version")
    remove.add_argument("name")
    remove.add_argument("version", type=int)
    remove.set_defaults(command=_remove)
    return parser


if __name__ == "__main__":
    sys.exit(main())
