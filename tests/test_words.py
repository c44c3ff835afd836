"""The words of the project: one voice, one name for each concept, and a README that a reader finishes."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PRINTED = ROOT / "docs" / "demo_results.md"  # tables as they were printed once
CODE = sorted((ROOT / "iqa_lib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

OLD_VOICE = re.compile(r"came (as|with|in|for)|; wanted")
LOSERS = re.compile(r"\b(pictures?|trunks?|windows?|mend(s|ed|ing)?|spoil(s|ed|ing|t)?|ways out|not told)\b", re.I)
"""What CONTRIBUTING.md's glossary has another word for."""


def lines_of(path: Path) -> list[str]:
    """A file's lines; of a notebook its sources', and of the glossary not those that name a loser."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    return [line for line in path.read_text().splitlines() if not line.lstrip().startswith("not:")]


def hits(path: Path, pattern: re.Pattern) -> list[str]:
    return [line.strip() for line in lines_of(path) if pattern.search(line)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*CODE, *NOTEBOOKS, *(page for page in PAGES if page != PRINTED)], ids=name)
def test_errors_and_prose_say_got_and_expected(path):
    assert hits(path, OLD_VOICE) == []


@pytest.mark.parametrize("path", [*CODE, *NOTEBOOKS, *PAGES[:2]], ids=name)
def test_each_concept_has_its_one_name(path):
    assert hits(path, LOSERS) == []


def test_a_loser_is_found_in_whatever_form():
    for text in (
        "Pictures of it",
        "a trunk",
        "11x11 windows",
        "mend the path",
        "spoilt",
        "the ways out",
        "is not told",
    ):
        assert LOSERS.search(text), text
    assert not LOSERS.search("recommended: window_size, amend, depicture")


def test_the_readme_is_short_and_its_tables_are_narrow():
    lines = PAGES[0].read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 200] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_the_text_exist(page):
    paths = re.findall(r"`((?:tests|benchmarks|iqa_lib|params|notebooks|docs)/[\w./]+)`", page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_lists_every_notebook():
    listed = re.findall(r"^\| `(\w+\.ipynb)`", PAGES[0].read_text(), re.M)
    assert sorted(listed) == sorted(path.name for path in NOTEBOOKS)


@pytest.mark.parametrize("page", PAGES[:2], ids=name)
def test_commands_name_files_and_modules_that_exist(page):
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.M | re.S)
    commands = [line for block in blocks for line in block.splitlines() if re.search(r"papermill|python|pytest", line)]
    assert commands
    for line in commands:
        for path in re.findall(r"\b(?:notebooks|params|tests|benchmarks)/[\w./]+\w", line):
            assert (ROOT / path).exists(), line
        for module in re.findall(r"-m (iqa_lib[\w.]*)", line):
            file = ROOT / module.replace(".", "/")
            assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), line
