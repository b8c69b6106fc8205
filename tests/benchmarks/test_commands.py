"""Every command of a benchmark that the manual or a docstring shows is real: its module and its options."""

import ast
import re
from pathlib import Path

import pytest

from tests.benchmarks.running import ROOT
from tests.benchmarks.test_structure import MODULES

COMMAND = re.compile(r"python (-m )?(benchmarks[\w./]*)((?:[^`\n\\]|\\+\n)*)")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHARED_OPTIONS = {"--page", "--machine"}


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def strings(module: str) -> set[str]:
    """The string constants of a module, and the options that it takes from `command_line`."""
    nodes = list(ast.walk(tree(module)))
    found = {each.value for each in nodes if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    takes_page = any(isinstance(each, ast.Attribute) and each.attr == "add_page" for each in nodes)
    return found | {"--help"} | (SHARED_OPTIONS if takes_page else set())


def commands(text: str) -> list[tuple[str, set[str]]]:
    """Modules and options of the commands in a text."""
    found = []
    for match in COMMAND.finditer(text):
        assert match[1], f"{match[0]}: benchmarks are run with -m"
        arguments = re.sub(r'"[^"]*"', "", match[3].partition("#")[0])  # commands within it have their own
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", arguments))
        found.append((match[2], options))
    return found


def check(text: str) -> int:
    found = commands(text)
    for module, options in found:
        assert module in MODULES, f"{module} is no module"
        for option in options - strings(module):
            # an option whose name is made of a constant: `f"--{name}"`
            assert option.removeprefix("--") in strings(module), f"{module} has no option {option}"
    return len(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_are_real(page):
    check(page.read_text())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_run_says_how(module):
    text = ast.get_docstring(tree(module)) or ""
    assert text, f"{module} has no docstring"
    runs = any(isinstance(each, ast.If) for each in tree(module).body)
    assert bool(check(text)) == runs
    assert not runs or module in {name for name, _ in commands(text)}


def blocks_written(module: str) -> set[str]:
    """The names of the blocks that a module writes, where they are constants."""
    calls = [each for each in ast.walk(tree(module)) if isinstance(each, ast.Call)]
    writes = [each for each in calls if ast.unparse(each.func) == "pages.write"]
    return {each.args[2].value for each in writes if isinstance(each.args[2], ast.Constant)}


@pytest.mark.parametrize("module", [module for module in MODULES if blocks_written(module)])
def test_a_block_that_a_benchmark_writes_stands_below_its_command(module):
    for name in blocks_written(module):
        mark = f"<!-- measured: {name}: begin -->"
        (text,) = (text for page in PAGES if mark in (text := page.read_text()))
        assert commands(text[: text.index(mark)])[-1][0] == module


def test_each_page_of_a_command_is_the_page_it_stands_on():
    for page in PAGES:
        for match in re.finditer(r"--page (docs/[\w-]+\.md)", page.read_text()):
            assert Path(match[1]).name == page.name
