"""The plan of the house: who may import whom, and who may know a device, the repository's folders or `unittest`."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "iqa_lib"
LAYERS = (
    {"files", "checks", "devices", "progress", "images", "formats"},
    {"weights", "losses", "data", "metrics"},
    {"training", "backbones"},
    {"views", "models"},
    {"baselines", "plots", "evaluation"},
    {"lab"},
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}
FORBIDDEN = {"models": {"views", "data"}}  # though the layers would allow it
DOORS = {"__init__", "score"}  # `iqa_lib.score` and `python -m iqa_lib.score` lead into `lab`
DEVICES = {"training", "devices"}
FOLDERS = {"lab", "files"}


def part_of(path: Path) -> str:
    """`"models"` for iqa_lib/models/ahiq.py, `"views"` for iqa_lib/views.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> list[str]:
    """Dotted names that the code imports, inside functions too; not for type checkers alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "iqa_lib." * bool(node.level) + f"{node.module}." * bool(node.module)
            names += [base + alias.name for alias in node.names]
    return names


def knows_device(node: ast.AST) -> bool:
    """Whether a node makes a device, asks for its type or moves something onto one."""
    if isinstance(node, ast.Call):
        to_device = isinstance(node.func, ast.Attribute) and node.func.attr == "to" and node.args
        return ast.unparse(node.func) == "torch.device" or bool(to_device and ast.unparse(node.args[0]) == "device")
    return isinstance(node, ast.Attribute) and (
        node.attr == "cuda" or (node.attr == "type" and ast.unparse(node.value).split(".")[-1] == "device")
    )


def offences(source: str, part: str) -> list[str]:
    """What `source`, as a file of `part`, does against the plan (CONTRIBUTING.md)."""
    found = []
    for name in imported(ast.parse(source)):
        other = name.split(".")[1] if name.startswith("iqa_lib.") else ""
        too_high = LEVEL.get(other, 0) > LEVEL.get(part, len(LAYERS))
        if too_high or other in FORBIDDEN.get(part, ()) or (other in DOORS and part not in DOORS):
            found.append(f"{part} imports {name}")
        if name.split(".")[0] == "unittest":
            found.append(f"{part} imports {name}")
    for node in ast.walk(ast.parse(source)):
        if part not in DEVICES and knows_device(node):
            found.append(f"{part} knows a device: {ast.unparse(node)}")
        if part not in FOLDERS and "repo_root" in (getattr(node, "id", ""), getattr(node, "attr", "")):
            found.append(f"{part} knows the repository's folder")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_a_layer_and_keeps_to_the_plan(path):
    assert part_of(path) in LEVEL.keys() | DOORS, "give the new module a place in LAYERS"
    found = offences(path.read_text(), part_of(path))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("models", "from iqa_lib.baselines import load"),
        ("models", "from iqa_lib.views import Crops"),
        ("models", "def forward(x):\n    from iqa_lib import plots"),
        ("data", "import iqa_lib.training"),
        ("data", "from iqa_lib import models"),
        ("models", "from iqa_lib.data.base import Pair"),
        ("data", "from ..views import Crops"),
        ("data", "from .. import views"),
        ("evaluation", "from iqa_lib.lab import runs"),
        ("training", "from iqa_lib.views import Crops"),
        ("plots", "from iqa_lib.score import main"),
        ("lab", "from unittest import mock"),
        ("views", "here = torch.device('cpu')"),
        ("views", "def f(x, device):\n    return x.to(device, non_blocking=True)"),
        ("baselines", "if model.weight.device.type == 'cpu': pass"),
        ("evaluation", "torch.cuda.synchronize()"),
        ("plots", "path = files.repo_root() / 'outputs'"),
    ],
)
def test_an_import_turned_round_is_found(part, source):
    assert len(offences(source, part)) == 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("models", "from iqa_lib.backbones import Backbone\nfrom iqa_lib.models.rebuild import described"),
        ("evaluation", "from iqa_lib import baselines, data\nfrom iqa_lib.views import Crops"),
        ("files", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from iqa_lib.models import AHIQ"),
        ("lab", "from iqa_lib.files import repo_root\nrepo_root()"),
        ("training", "model.to(device)"),
        ("models", "x = x.to(torch.uint8)"),
        ("score", "from iqa_lib.lab import scoring"),
    ],
)
def test_what_the_plan_allows_is_not_found(part, source):
    assert not offences(source, part)
