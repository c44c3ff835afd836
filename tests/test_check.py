"""`check` names all that is wrong with a data set on disk, `where` says where it comes from; their command line."""

import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import pytest
from dataset_trees import LIVE_FOLDERS, SIDE, TREES, encoded, write
from PIL import Image

from iqa_lib.data import NAMES, DataError
from iqa_lib.data.__main__ import main
from iqa_lib.data.check import check, where
from iqa_lib.data.folder import Counts
from iqa_lib.files import repo_root

REAL = [name for name in NAMES if name != "demo"]
COUNTS = {  # records, references, distorted of the trees
    "clic": {"train": Counts(28, 7, 14), "validation": Counts(6, 2, 4)},
    "bapps": {"train": Counts(9, 9, 18), "val": Counts(6, 6, 12)},
    "pieapp": {"train+val": Counts(6, 3, 9), "test": Counts(2, 1, 3)},
    "pipal": {"all": Counts(15, 5, 15)},
    "kadid10k": {"all": Counts(18, 6, 18)},
    "tid2013": {"all": Counts(10, 5, 10)},
    "live": {"all": Counts(27, 5, 27)},
    "csiq": {"all": Counts(15, 5, 15)},
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A function that writes a tree whose counts are the published ones."""
    monkeypatch.setattr("iqa_lib.data.live.FOLDERS", LIVE_FOLDERS)

    def write_tree(name, counts=None):
        module = import_module(f"iqa_lib.data.{name}")
        monkeypatch.setattr(module, "ORIGIN", replace(module.ORIGIN, counts=counts or COUNTS[name]))
        TREES[name](tmp_path / name)
        return tmp_path / name

    return write_tree


@pytest.mark.parametrize("name", REAL)
def test_whole_data_set_has_nothing_wrong(tree, name):
    root = tree(name)
    report = check(name, root)
    assert report.ok
    assert not report.problems
    assert not report.remarks
    assert report.decoded == sum(path.suffix.lower() in (".png", ".bmp") for path in root.rglob("*")) - (
        len(LIVE_FOLDERS) if name == "live" else 0
    )
    found = {(count.part, count.what): count.found for count in report.counts}
    for part, counts in COUNTS[name].items():
        assert found[part, "records"] == counts.records
        assert found[part, "references"] == counts.references
        assert found[part, "distorted"] == counts.distorted
    assert str(report).endswith(f"{name}: nothing wrong")


def test_labels_are_those_downloaded_and_repeats_are_counted(tree):
    assert check("csiq", tree("csiq")).labels == (0.062, 1.0)
    assert check("clic", tree("clic")).repeats == 9


def test_all_problems_are_named_at_once(tree):
    root = tree("tid2013")
    lines = (root / "mos_with_names.txt").read_text().splitlines()
    lines[1] = lines[1].replace("0.24242", "nan")
    lines[3] = lines[3].replace("0.24242", "11")
    write(root / "mos_with_names.txt", "\n".join([*lines, "1.5", lines[0]]))
    (root / "reference_images/I02.BMP").unlink()
    (root / "distorted_images/i03_01_1.bmp").unlink()
    write(root / "distorted_images/i04_01_1.bmp", b"")
    write(root / "distorted_images/I04_24_5.bmp", encoded((SIDE, 2 * SIDE)))
    problems = check("tid2013", root).problems
    expected = [
        "mos_with_names.txt, line 2: MOS: got nan",
        "mos_with_names.txt, line 4: MOS: got 11",
        "mos_with_names.txt, line 11: columns: got 1 in '1.5', expected 2",
        "mos_with_names.txt, line 12: got I01_01_1.bmp again, first in mos_with_names.txt, line 1",
        "I02.bmp: is missing",
        "I03_01_1.bmp: is missing",
        "all: 8 records, 10 published",
        "all: 8 distorted, 10 published",
        "i04_01_1.bmp: cannot be decoded",
        f"I04_24_5.bmp {SIDE}x{2 * SIDE}",
    ]
    for text in expected:
        assert sum(text in problem for problem in problems) == 1, text
    assert len(problems) == len(expected)


def test_a_broken_label_file_does_not_hide_the_others(tree):
    root = tree("pieapp")
    write(root / "labels/train/ref_1_pairwise_labels.csv", "")
    (root / "labels/val/ref_3_pairwise_labels.csv").unlink()
    (root / "distorted_images/test/ref_4/distort_4_jpeg_inter_3.png").unlink()
    problems = "\n".join(check("pieapp", root).problems)
    for name in ("ref_1_pairwise_labels.csv: is empty", "ref_3_pairwise_labels.csv: is missing", "distort_4_jpeg"):
        assert name in problems


def test_published_numbers_that_are_not_verified_leave_room(tree):
    near, far = Counts(30, verified=False), Counts(1000, verified=False)
    report = check("clic", tree("clic", {"train": near, "validation": far}))
    assert report.remarks == ("train: 28 records, 30 published (unverified)",)
    assert report.problems == ("validation: 6 records, 1,000 published (unverified)",)


@pytest.mark.parametrize(("name", "part", "path"), [("clic", "train", "train"), ("bapps", "val", "val")])
def test_part_that_was_not_unpacked_is_a_remark(tree, name, part, path):
    root = tree(name)
    (root / path).rename(root.parent / "elsewhere")
    report = check(name, root)
    assert report.ok
    assert report.remarks == (f"{part} was not unpacked",)
    assert part not in {count.part for count in report.counts}


@pytest.mark.parametrize("name", REAL)
def test_folder_that_holds_nothing_is_a_problem(tmp_path, name):
    report = check(name, tmp_path)
    assert not report.ok
    assert f"holds nothing of {name}; expected layout" in report.problems[0]


def test_reference_on_two_sides_is_a_problem(tree):
    root = tree("clic")
    for path in (root / "validation").glob("5*"):
        path.rename(root / "train" / path.name)
        (root / "validation" / path.name).symlink_to(root / "train" / path.name)
    with (root / "train/oracle.csv").open("a") as file:
        file.write((root / "validation/oracle.csv").read_text().splitlines()[0])
    assert f"reference 5c0{'0' * 29} is in train and in validation" in check("clic", root).problems


def test_broken_link_is_a_problem(tree):
    root = tree("kadid10k")
    path = root / "images/I02.png"
    path.unlink()
    path.symlink_to(root / "nowhere.png")
    assert check("kadid10k", root).problems == (f"{path}: is missing",)


def test_images_are_left_alone_without_decoding(tree):
    root = tree("kadid10k")
    write(root / "images/I02.png", b"")
    assert check("kadid10k", root, decode=False).ok
    assert not check("kadid10k", root).ok


def test_options_go_to_the_reader(tree):
    root = tree("live")
    (root / "dmos_realigned.mat").unlink()
    assert not check("live", root).ok
    assert check("live", root, dmos="original").ok


@pytest.mark.parametrize(("name", "columns"), [("kadid10k", 2), ("pieapp", 3)])
def test_contact_sheet_shows_records_also_of_a_damaged_set(tree, tmp_path, name, columns):
    root = tree(name)
    write(next(root.glob("**/*_*.png")), b"")
    file = tmp_path / "new" / "sheet.png"
    check(name, root, contact_sheet=file)
    with Image.open(file) as sheet:
        assert sheet.width == columns * 192
        assert len(sheet.convert("L").getcolors()) > 50


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_no_folder(root):
    with pytest.raises(DataError, match=rf"(?s)kadid10k: root: got {root}, .*expected layout.*Official page"):
        check("kadid10k", root)


@pytest.mark.parametrize("name", REAL)
def test_where(name):
    text, origin = where(name), import_module(f"iqa_lib.data.{name}").ORIGIN
    for line in (origin.citation, origin.page, origin.terms, *origin.archives, *origin.layout.splitlines()):
        assert line in text
    assert "https://" in text


def test_demo_is_made_not_checked(capsys):
    assert check("demo", None).ok
    for command in (["check", "demo"], ["where", "demo"]):
        assert main(command) == 0
        assert "made by iqa_lib itself" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "where"])
def test_unknown_name(capsys, command):
    assert main([command, "koniq"]) == 1
    assert "name: got 'koniq', expected one of 'demo', 'clic'" in capsys.readouterr().err


def test_command_line_statuses(tree, tmp_path, capsys):
    root, file = tree("kadid10k"), tmp_path / "sheet.png"
    assert main(["check", "kadid10k", str(root), "--contact-sheet", str(file)]) == 0
    assert file.exists()
    write(root / "images/I02.png", b"")
    assert main(["check", "kadid10k", str(root), "--no-decode"]) == 0
    assert main(["check", "kadid10k", str(root)]) == 1
    assert "I02.png: cannot be decoded" in capsys.readouterr().out
    assert main(["check", "kadid10k"]) == 1
    assert "Official page" in capsys.readouterr().err
    assert main(["where", "kadid10k"]) == 0
    assert "kadid10k.zip" in capsys.readouterr().out


def test_module_runs_quietly_where_there_is_no_terminal(tmp_path):
    TREES["tid2013"](tmp_path)
    command = [sys.executable, "-m", "iqa_lib.data", "check", "tid2013", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert "problem: all: 10 records, 3,000 published" in run.stdout
    assert not run.stderr


def test_the_pages_in_docs_are_those_that_the_command_writes(capsys):
    assert main(["pages"]) == 0
    written = capsys.readouterr().out
    assert written == (repo_root() / "docs" / "datasets.md").read_text()
    assert all(f"## `{name}`" in written for name in NAMES)
