"""docs/architecture.md has the packages, rooms and imports of tests/test_structure.py."""

import re

from tests.docs.blocks import ROOT
from tests.test_structure import ALLOWED, OURS, ROOMS

PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = re.compile(r"^\| (`[a-z_/`, ]+`) \| ([^|]+) \|$", re.MULTILINE)
ROOM = re.compile(r"^\| `([a-z_./]+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def test_the_page_has_every_room_of_the_service_and_its_imports():
    rows = ROOM.findall(PAGE)
    nothing = "nothing of the service"
    found = {
        name.removesuffix(".py").removesuffix("/"): set() if said == nothing else set(said.split(", "))
        for name, said in rows
    }
    assert len(found) == len(rows)
    assert found == ROOMS


def test_the_rooms_of_the_page_are_files_and_folders():
    for name, _ in ROOM.findall(PAGE):
        path = ROOT / "service" / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name


def test_the_page_has_every_package_and_its_imports():
    rows = {package: said for names, said in PACKAGE.findall(PAGE) for package in names.split(", ")}
    for path, allowed in ALLOWED.items():
        package = path.rpartition("/")[2]
        said = rows.pop(f"`{path.partition('/')[0]}/`").partition(";")[0]
        imports = set() if said == "nothing of ours" else set(re.findall(r"`(\w+)`", said))
        assert imports == allowed - {package}
        assert imports <= OURS
    assert set(rows.values()) <= {"everything"}
