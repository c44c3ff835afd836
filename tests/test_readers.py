"""Readers of the data sets: small trees in the true layout are read exactly, damaged ones are named, never skipped."""

import io
import os
import shutil
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import LIVE_FOLDERS, PNG, SIDE, TREES, encoded, image, write
from openpyxl import load_workbook
from scipy.io import loadmat, savemat
from torch.utils.data import ConcatDataset, DataLoader

from iqa_lib.data import DataError, load
from iqa_lib.data.check import check
from iqa_lib.data.live import FOLDERS as LIVE_RELEASE

trees = pytest.mark.parametrize("tree", TREES)


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Every tree, written once."""
    folder = tmp_path_factory.mktemp("trees")
    for name, write_tree in TREES.items():
        write_tree(folder / name)
    return folder


@pytest.fixture
def root_of(originals, tmp_path, monkeypatch):
    """A function that gives a tree's copy, to read or to damage."""
    monkeypatch.setattr("iqa_lib.data.live.FOLDERS", LIVE_FOLDERS)
    return lambda tree: shutil.copytree(originals / tree, tmp_path / tree, copy_function=os.link)


def name_of(tree):
    return tree.removesuffix("_list")


def read(tree, root, split="all", **options):
    return load(name_of(tree), root, split=split, **options)


# What is read


def test_kadid10k(root_of):
    root = root_of("kadid10k")
    dataset = read("kadid10k", root)
    assert len(dataset) == 18
    pair = dataset.records[1]
    assert pair.images == (root / "images/I01.png", root / "images/I01_01_05.png")
    assert (pair.score, pair.original, pair.reference_id, pair.kind) == (1.4, 1.4, "I01", "Gaussian blur")
    assert dataset.records[2].kind == "contrast change"
    assert dataset.label.higher_is_better


def test_tid2013_finds_names_whatever_their_case(root_of):
    root = root_of("tid2013")
    records = read("tid2013", root).records
    assert len(records) == 10
    first, last = records[0], records[-1]
    assert first.images == (root / "reference_images/I01.BMP", root / "distorted_images/i01_01_1.bmp")
    assert last.images == (root / "reference_images/i25.bmp", root / "distorted_images/I25_24_5.bmp")
    assert (first.score, first.kind, last.score, last.kind) == (5.51429, "01", 0.24242, "24")
    assert {record.reference_id for record in records} == {"I01", "I02", "I03", "I04", "I25"}


@pytest.mark.parametrize(("dmos", "shift"), [("realigned", 0.5), ("original", 0)])
def test_live_flips_dmos_and_drops_the_undistorted_copies(root_of, dmos, shift):
    root = root_of("live")
    dataset = read("live", root, dmos=dmos)
    assert len(dataset) == sum(LIVE_FOLDERS.values()) - len(LIVE_FOLDERS)
    pair = dataset.records[7]  # the eighth of jp2k is a copy, so this is number 9 of all
    assert pair.images == (root / "refimgs/ref3.bmp", root / "jpeg/img1.bmp")
    assert pair.original == pytest.approx(8 * 100 / 32 + shift)
    assert pair.score == 100 - pair.original
    assert (pair.reference_id, pair.kind) == ("ref3", "jpeg")
    assert not dataset.label.higher_is_better


def test_live_reads_the_982_labels_of_the_release(tmp_path):
    TREES["live"](tmp_path, LIVE_RELEASE)
    records = read("live", tmp_path).records
    assert sum(LIVE_RELEASE.values()) == 982
    assert len(records) == 982 - 5
    assert records[-1].distorted == tmp_path / "fastfading/img173.bmp"
    assert records[-1].original == pytest.approx(980 * 100 / 982 + 0.5)


def test_live_refuses_an_unknown_label_file(root_of):
    with pytest.raises(DataError, match="expected one of 'realigned', 'original'"):
        read("live", root_of("live"), dmos="new")


def test_csiq_reads_the_workbook(root_of):
    root = root_of("csiq")
    dataset = read("csiq", root)
    assert len(dataset) == 15
    pair, jpeg2000 = dataset.records[:2]
    assert pair.images == (root / "src_imgs/1600.png", root / "dst_imgs/awgn/1600.AWGN.1.png")
    assert (pair.score, pair.original, pair.reference_id, pair.kind) == (1 - 0.062, 0.062, "1600", "awgn")
    assert jpeg2000.distorted == root / "dst_imgs/jpeg2000/1600.jpeg2000.5.png"
    assert (jpeg2000.score, jpeg2000.kind) == (0, "jpeg2000")
    assert not dataset.label.higher_is_better


def test_csiq_reads_the_list_of_the_community(root_of):
    root = root_of("csiq_list")
    records = read("csiq", root).records
    assert len(records) == 10
    assert records[0].images == (root / "src_imgs/1600.png", root / "dst_imgs/1600.AWGN.1.png")
    assert (records[0].score, records[3].kind) == (1 - 0.062, "jpeg2000")


def test_csiq_takes_the_workbook_where_both_are_there(root_of):
    root = root_of("csiq")
    write(root / "csiq_label.txt", "1600.AWGN.1.png 0.9\n")
    assert len(read("csiq", root)) == 15


def test_pipal(root_of):
    root = root_of("pipal")
    records = read("pipal", root).records
    assert len(records) == 15
    pair = records[4]
    assert pair.images == (root / "Train_Ref/A0001.bmp", root / "Distortion_2/A0001_03_01.bmp")
    assert (pair.score, pair.reference_id, pair.kind) == (1200.25, "A0001", "03")


def test_pipal_reads_distorted_images_from_one_folder(root_of):
    root = root_of("pipal")
    (root / "Dist_Imgs").mkdir()
    for path in root.glob("Distortion_?/*"):
        path.rename(root / "Dist_Imgs" / path.name)
    assert read("pipal", root).records[0].distorted == root / "Dist_Imgs/A0000_00_01.bmp"


def test_bapps(root_of):
    root = root_of("bapps")
    train, val = read("bapps", root, "train"), read("bapps", root, "val")
    assert (len(train), len(val), len(read("bapps", root))) == (9, 6, 15)
    triplet = train.records[4]
    assert triplet.images == tuple(root / f"train/cnn/{side}/000001.png" for side in ("ref", "p0", "p1"))
    assert (triplet.p_b, triplet.reference_id, triplet.kind_a) == (0.5, "train/cnn/000001", "cnn")
    assert [record.p_b for record in train.records[:3]] == [0, 0.5, 1]
    assert {record.kind_b for record in read("bapps", root, "val", sets=["color", "deblur"]).records} == {
        "color",
        "deblur",
    }


def test_bapps_refuses_a_set_that_the_split_lacks(root_of):
    with pytest.raises(DataError, match=r"got \['mix'\], expected some of what val has.*superres"):
        read("bapps", root_of("bapps"), "val", sets=["mix"])


def test_pieapp_turns_the_probability_of_a_into_that_of_b(root_of):
    root = root_of("pieapp")
    dataset = read("pieapp", root, "train")
    assert [record.reference_id for record in dataset.records] == ["ref_1", "ref_1", "ref_12", "ref_12"]
    triplet = dataset.records[0]
    assert triplet.images == (
        root / "reference_images/train/ref_1.png",
        root / "distorted_images/train/ref_1/distort_1_blur_inter_1.png",
        root / "distorted_images/train/ref_1/distort_1_my_noise_intra_20.png",
    )
    assert (triplet.p_b, triplet.original, triplet.kind_a, triplet.kind_b) == (0.75, 0.25, "blur", "my_noise")
    assert dataset.records[1].p_b == pytest.approx(0.1)  # the raw column is blank here
    assert not dataset.label.higher_is_better


def test_pieapp_finds_the_reference_among_the_choices(root_of):
    root = root_of("pieapp")
    control = read("pieapp", root, "test").records[1]
    assert control.a == control.reference == root / "reference_images/test/ref_4.png"
    assert (control.kind_a, control.kind_b, control.p_b) == ("reference", "jpeg", pytest.approx(0.025))
    assert len(read("pieapp", root, "test", controls=False)) == 1
    assert len(read("pieapp", root)) == 8
    assert len(read("pieapp", root, include_test=False)) == 6


def test_clic_keeps_every_row_and_its_polarity(root_of):
    root = root_of("clic")
    records = read("clic", root, "validation").records
    names = [root / "validation" / f"5{kind}{'0' * 29}.png" for kind in ("c0", "aa", "bb")]
    assert [record.images for record in records[:3]] == [tuple(names), tuple(names), (names[0], names[2], names[1])]
    assert [record.p_b for record in records] == [1, 0, 1] * 2
    assert {record.reference_id for record in records} == {f"{digit}c0{'0' * 29}" for digit in "56"}


def test_clic_reads_images_in_folders_by_digit_or_flat(root_of):
    root = root_of("clic")
    assert read("clic", root).records[0].a == root / f"train/0/0aa{'0' * 29}.png"
    for path in root.glob("train/0/*"):
        path.rename(root / "train" / path.name)
    assert read("clic", root).records[0].a == root / f"train/0aa{'0' * 29}.png"


def test_clic_leaves_out_rows_with_the_original_among_the_choices(root_of):
    root = root_of("clic")
    assert len(read("clic", root, "train")) == 28
    assert len(read("clic", root, "train", controls=False)) == 21


def test_clic_validation_may_be_the_root_itself(root_of):
    root = root_of("clic") / "validation"
    assert len(read("clic", root, "validation")) == 6
    with pytest.raises(DataError, match=r"train/oracle\.csv: is missing"):
        read("clic", root, "train")


def test_clic_compares_answers_with_questions(root_of):
    root = root_of("clic")
    lines = (root / "validation/oracle.csv").read_text().splitlines(keepends=True)
    write(root / "validation/oracle.csv", "".join(lines[:-1]))
    with pytest.raises(DataError, match=r"validation\.csv, line 6: .*download both again"):
        read("clic", root, "validation")


@pytest.mark.parametrize(
    ("tree", "inside"),
    [
        ("kadid10k", "kadid10k"),
        ("tid2013", "tid2013"),
        ("live", "databaserelease2"),
        ("pieapp", "PieAPP_dataset_CVPR_2018"),
        ("bapps", "dataset/2afc"),
    ],
)
def test_root_may_hold_the_folder_that_the_archive_makes(root_of, tmp_path, tree, inside):
    outer = tmp_path / "outer"
    (outer / inside).parent.mkdir(parents=True)
    root_of(tree).rename(outer / inside)
    assert read(tree, outer).records[0].reference.is_relative_to(outer / inside)


@trees
def test_items_are_images_and_target(root_of, tree):
    dataset = read(tree, root_of(tree))
    *images, target = dataset[0]
    assert {tuple(image.shape) for image in images} == {(3, SIDE, SIDE)}
    assert target.item() == pytest.approx(dataset.records[0].target)


@trees
def test_fingerprint_does_not_depend_on_where_the_data_are(root_of, originals, tree):
    assert read(tree, root_of(tree)).fingerprint() == read(tree, originals / tree).fingerprint()


# Splits

SIDES = {
    "clic": [("train", "validation"), ("train-80", "train-20", "validation")],
    "bapps": [("train", "val")],
    "pieapp": [("train", "val", "test")],
    "pipal": [("train", "test")],
    "kadid10k": [("train", "test")],
    "tid2013": [("train", "val", "test")],
    "live": [("train", "val", "test")],
    "csiq": [("train", "val", "test")],
}


@pytest.mark.parametrize("seed", [0, 1, 2, 123])
@pytest.mark.parametrize(("name", "sides"), [(name, sides) for name, all_ in SIDES.items() for sides in all_])
def test_no_reference_is_on_two_sides(root_of, name, sides, seed):
    root = root_of(name)
    parts = [read(name, root, side, seed=seed) for side in sides]
    ids = [set(part.reference_ids) for part in parts]
    files = [{record.reference for record in part.records} for part in parts]
    assert sum(map(len, ids)) == len(set.union(*ids))
    assert sum(map(len, files)) == len(set.union(*files))
    everything = read(name, root, "all", seed=seed)
    assert sum(map(len, parts)) == len(everything)
    assert {*everything.records} == {record for part in parts for record in part.records}


@pytest.mark.parametrize("name", ["pipal", "kadid10k", "tid2013", "live", "csiq"])
def test_splits_depend_on_the_seed_alone(root_of, name):
    root = root_of(name)
    sides = {tuple(read(name, root, "train", seed=seed).reference_ids) for seed in range(8)}
    assert len(sides) > 1
    assert read(name, root, "train", seed=3).records == read(name, root, "train", seed=3).records


@pytest.mark.parametrize(("name", "side"), [("clic", "train-80"), ("kadid10k", "train"), ("live", "train")])
def test_split_by_row_leaks_references(root_of, name, side):
    root = root_of(name)
    other = {"train-80": "train-20", "train": "test"}[side]
    mine, theirs = (read(name, root, part, by="row", seed=1) for part in (side, other))
    assert {*mine.reference_ids} & {*theirs.reference_ids}
    with pytest.raises(DataError, match="expected one of 'reference', 'row'"):
        read(name, root, side, by="image")


@pytest.mark.parametrize("name", SIDES)
def test_unknown_split_names_those_there_are(root_of, name):
    expected = ", ".join(map(repr, SIDES[name][0]))
    with pytest.raises(DataError, match=rf"split: got 'dev', expected one of {expected}.*'all'"):
        read(name, root_of(name), "dev")


# A folder that is none, or holds nothing


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("root", [None, "nowhere", "empty"])
def test_folder_that_is_none_or_empty_tells_layout_and_page(tmp_path, name, root):
    (tmp_path / "empty").mkdir()
    origin = import_module(f"iqa_lib.data.{name}").ORIGIN
    with pytest.raises(DataError) as caught:
        load(name, root and tmp_path / root)
    for told in (origin.layout, origin.page, f"python -m iqa_lib.data where {name}"):
        assert told in str(caught.value)


# Damage: each is told by file and reason, or is harmless


@dataclass(frozen=True)
class Text:
    """A label file made of text: where it lies, and which cells of its last line are name and label."""

    path: str
    separator: str
    name: int
    label: int
    unique: bool = True


TEXTS = {
    "clic": Text("validation/oracle.csv", ",", 1, 3, unique=False),
    "pieapp": Text("labels/train/ref_12_pairwise_labels.csv", ",", 2, 4, unique=False),
    "pipal": Text("Train_Label/A0001.txt", ",", 0, 1),
    "kadid10k": Text("dmos.csv", ",", 0, 2),
    "tid2013": Text("mos_with_names.txt", " ", 1, 0),
    "csiq_list": Text("csiq_label.txt", " ", 0, 1),
}


def cell(index, value, text, file):
    """The text with a cell of its last line replaced; `index` names an attribute of `file`."""
    *lines, last = text.splitlines()
    cells = last.split(file.separator)
    cells[getattr(file, index)] = value
    return "\n".join([*lines, file.separator.join(cells), ""])


def last_line(change, text, file):
    *lines, last = text.splitlines()
    return "\n".join([*lines, change(last, file.separator), ""])


HARMFUL = {
    "empty": (lambda text, file: "", "is empty"),
    "blank": (lambda text, file: " \n\n", "is empty"),
    "UTF-16": (lambda text, file: text.encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (lambda text, file: text.encode("utf-16-le"), "UTF-16"),
    "no UTF-8": (lambda text, file: text.encode() + b"\xe9\n", r"line \d+: is not UTF-8"),
    "zeros": (lambda text, file: bytes(4096), "binary data"),
    "image": (lambda text, file: PNG, "binary data|UTF-8"),
    "web page": (lambda text, file: "<!DOCTYPE html>\n<html>\n<p>a, b</p>\n</html>\n", r"line \d: "),
    "line left empty": (partial(last_line, lambda line, _: f"\n{line}"), r"line \d+: .*(an empty line|questions)"),
    "column too many": (
        partial(last_line, lambda line, by: f"{line}{by}1"),
        r"line \d+: (columns: got \d|.*questions)",
    ),
    "column lost": (
        partial(last_line, lambda line, by: line.rsplit(by, 1)[0]),
        r"line \d+: (columns: got \d|.*questions)",
    ),
    "cut short": (
        partial(last_line, lambda line, by: line[: line.index(by) + 1]),
        r"line \d+: .*(column|expected|questions)",
    ),
    "NaN": (partial(cell, "label", "nan"), r"line \d+: .*expected \d"),
    "infinite": (partial(cell, "label", "inf"), r"line \d+: .*expected \d"),
    "no number": (partial(cell, "label", "good"), r"line \d+: .*expected"),
    "no label": (partial(cell, "label", ""), r"line \d+: .*expected"),
    "too high": (partial(cell, "label", "99999"), r"line \d+: .*expected \d"),
    "too low": (partial(cell, "label", "-3"), r"line \d+: .*expected \d"),
    "decimal comma": (partial(cell, "label", "0,5"), r"line \d+: .*expected"),
    "no name": (partial(cell, "name", "?"), r"line \d+: .*(expected a name|questions)"),
    "name of a folder": (partial(cell, "name", ".."), r"line \d+: .*(expected a name|questions)"),
}
HARMLESS = {
    "CRLF": lambda text: text.replace("\r", "").replace("\n", "\r\n"),
    "LF": lambda text: text.replace("\r", ""),
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "no newline at the end": lambda text: text.rstrip(),
    "newlines at the end": lambda text: text + "\n\n",
}


def told(tree, root, file, reason):
    """Loading fails with the file's name and the reason, and `check` lists both among the problems."""
    with pytest.raises(DataError, match=rf"(?si){Path(file).stem}.*{reason}"):
        read(tree, root)
    problems = "\n".join(check(name_of(tree), root, decode=False).problems)
    assert Path(file).name.lower() in problems.lower()


@pytest.mark.parametrize("damage", HARMFUL)
@pytest.mark.parametrize("tree", TEXTS)
def test_damaged_label_file_is_told(root_of, tree, damage):
    root, file = root_of(tree), TEXTS[tree]
    make, reason = HARMFUL[damage]
    write(root / file.path, make((root / file.path).read_text(), file))
    told(tree, root, file.path, reason)


@pytest.mark.parametrize("damage", HARMLESS)
@pytest.mark.parametrize("tree", TEXTS)
def test_harmless_spelling_of_a_label_file_is_read_alike(root_of, originals, tree, damage):
    root, path = root_of(tree), TEXTS[tree].path
    write(root / path, HARMLESS[damage]((root / path).read_text()))
    assert read(tree, root).fingerprint() == read(tree, originals / tree).fingerprint()


@pytest.mark.parametrize("tree", TEXTS)
def test_missing_label_file_is_told(root_of, tree):
    root, path = root_of(tree), TEXTS[tree].path
    (root / path).unlink()
    if tree == "csiq_list":
        path = "csiq.DMOS.xlsx"
    told(tree, root, path, "is missing.*Official page")


@pytest.mark.parametrize("tree", TEXTS)
def test_folder_in_place_of_a_label_file_is_told(root_of, tree):
    root, path = root_of(tree), TEXTS[tree].path
    (root / path).unlink()
    (root / path).mkdir()
    told(tree, root, path, "IsADirectoryError")


@pytest.mark.parametrize("tree", TEXTS)
def test_line_that_comes_twice(root_of, tree):
    root, file = root_of(tree), TEXTS[tree]
    lines = (root / file.path).read_text().splitlines()
    write(root / file.path, "\n".join([*lines, lines[-1]]))
    (root / "validation/validation.csv").unlink(missing_ok=True)
    if file.unique:
        told(tree, root, file.path, r"line \d+: got .* again, first in .*, line \d+")
    else:
        read(tree, root)
        assert check(name_of(tree), root).repeats >= 1


@pytest.mark.parametrize(
    ("tree", "path", "old", "new", "reason"),
    [
        ("kadid10k", "dmos.csv", "dmos,var", "mos,var", r"line 1: header: got .*, expected also \['dmos'\]"),
        ("kadid10k", "dmos.csv", "I06_25_03.png,I06.png", "I06_25_03.png,I05.png", r"line 19: .*expected I06\.png"),
        ("kadid10k", "dmos.csv", "I06_25_03.png,", "I06_26_03.png,", r"line 19: .*expected a name"),
        (
            "pieapp",
            "labels/test/ref_4_pairwise_labels.csv",
            "preference for A",
            "P(A)",
            "line 1: header: got .*expected also",
        ),
        (
            "pieapp",
            "labels/val/ref_3_pairwise_labels.csv",
            "ref_3.png,",
            "ref_4.png,",
            r"line 2: .*expected ref_3\.png",
        ),
        ("pieapp", "labels/val/ref_3_pairwise_labels.csv", "0.9", "", "line 3: .*expected a number"),
        ("pieapp", "train_reference_list.txt", "ref_12", "ref_1", "line 2: got ref_1 again"),
        ("pieapp", "train_reference_list.txt", "ref_12.png", "ref_12,png", "line 2: "),
        ("pipal", "Train_Label/A0002.txt", "A0002_00", "A0001_00", "line 1: .*expected a name such as A0002"),
        ("tid2013", "mos_with_names.txt", "5.51429 I25_01_1.bmp", "I25_01_1.bmp 5.51429", "expected a number"),
        ("clic", "train/oracle.csv", ".png,1\n", ".png,0.5\n", "line 1: T: got '0.5', expected 0 or 1"),
        ("clic", "validation/validation.csv", "5bb", "6bb", "line 1: .*questions"),
    ],
)
def test_wrong_entry_is_told(root_of, tree, path, old, new, reason):
    root = root_of(tree)
    text = (root / path).read_text()
    assert old in text
    write(root / path, text.replace(old, new))
    told(tree, root, path, reason)


def test_label_file_with_nothing_but_a_header_is_told(root_of):
    root = root_of("pieapp")
    path = root / "labels/train/ref_1_pairwise_labels.csv"
    write(path, path.read_text().splitlines()[0])
    told("pieapp", root, path, "line 1: got nothing below the header")


def test_reference_without_labels_is_told(root_of):
    root = root_of("pipal")
    image(root / "Train_Ref/A0009.bmp")
    told("pipal", root, "Train_Label/A0009.txt", "is missing")


def test_names_that_differ_in_case_alone_are_told(root_of):
    root = root_of("tid2013")
    image(root / "reference_images/i01.bmp")
    image(root / "reference_images/i01.BMP")
    (root / "reference_images/I01.BMP").unlink()
    told("tid2013", root, "reference_images", "expected one of them, as I01.bmp")


# LIVE and CSIQ: binary label files; BAPPS: one label a file


def change_mat(path, **values):
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("_")} | values
    path.unlink()
    savemat(path, {key: value for key, value in content.items() if value is not None})


def some(values, index, value):
    values = np.array(values, float)
    values.flat[index] = value
    return values


LABELS = np.linspace(0, 90, sum(LIVE_FOLDERS.values()))[None]


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        ("dmos_realigned.mat", {"dmos_new": None}, "KeyError: 'dmos_new'"),
        ("dmos_realigned.mat", {"dmos_new": LABELS[:, :-1]}, "got 31 values in dmos_new, expected 32"),
        ("dmos_realigned.mat", {"dmos_new": some(LABELS, 3, np.nan)}, "line 4: DMOS: got nan"),
        ("dmos_realigned.mat", {"dmos_new": some(LABELS, 3, 1e4)}, "line 4: DMOS: got 10000"),
        ("dmos_realigned.mat", {"dmos_new": LABELS.astype(str).astype(object)}, None),
        ("dmos_realigned.mat", {"orgs": None}, "KeyError: 'orgs'"),
        ("dmos_realigned.mat", {"orgs": some(LABELS * 0, 5, 2)}, "line 6: orgs: got 2"),
        ("dmos_realigned.mat", {"orgs": np.zeros((1, 3))}, "3 values in orgs"),
        ("refnames_all.mat", {"refnames_all": LABELS}, "line 1: .*expected a name"),
        ("refnames_all.mat", {"refnames_all": np.array([["ref0.bmp"] * 31 + ["../x.bmp"]], object)}, None),
        ("refnames_all.mat", {"refnames_all": np.array([["ref0.bmp"] * 30 + ["../x.bmp"] * 2], object)}, "line 31"),
    ],
)
def test_live_label_files(root_of, file, values, reason):
    root = root_of("live")
    change_mat(root / file, **values)
    if reason:
        told("live", root, file, reason)
    else:
        assert len(read("live", root)) == 27


@pytest.mark.parametrize("file", ["dmos_realigned.mat", "refnames_all.mat"])
@pytest.mark.parametrize("content", [b"", b"no MATLAB file" * 20, PNG, "first half", "all but the end"])
def test_live_label_file_that_is_none(root_of, file, content):
    root = root_of("live")
    whole = (root / file).read_bytes()
    keep = {"first half": len(whole) // 2, "all but the end": len(whole) - 20}
    write(root / file, whole[: keep[content]] if content in keep else content)
    told("live", root, file, "cannot be read|values in")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (9, None, "row 5|line 5: .*expected a number"),
        (9, "#REF!", "line 5: .*expected a number"),
        (9, 1.5, "line 5: DMOS: got 1.5, expected 0 to 1"),
        (9, -0.1, "line 5: DMOS: got -0.1, expected 0 to 1"),
        (6, "fog", r"line 5: file name: got '1600\.fog\.1\.png', expected a name"),
        (7, 6, "line 5: .*expected a name"),
        (4, "boston", r"line 11: got boston\.AWGN\.1\.png again, first in csiq\.DMOS\.xlsx, line 5"),
    ],
)
def test_csiq_workbook_cells(root_of, column, value, reason):
    root = root_of("csiq")
    path = root / "csiq.DMOS.xlsx"
    book = load_workbook(path)
    book["all_by_image"].cell(5, column).value = value
    path.unlink()
    book.save(path)
    told("csiq", root, path, reason)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", PNG, b"<html></html>", "first half"])
def test_csiq_workbook_that_is_none(root_of, content):
    path = root_of("csiq") / "csiq.DMOS.xlsx"
    write(path, path.read_bytes()[:3000] if content == "first half" else content)
    told("csiq", path.parent, path, "cannot be read")


@pytest.mark.parametrize("change", ["sheet", "header", "empty row"])
def test_csiq_workbook_of_another_shape(root_of, change):
    path = root_of("csiq") / "csiq.DMOS.xlsx"
    book = load_workbook(path)
    sheet = book["all_by_image"]
    if change == "sheet":
        sheet.title = "all"
    elif change == "header":
        sheet.cell(4, 9).value = "score"
    else:
        sheet.insert_rows(8)
    path.unlink()
    book.save(path)
    told(
        "csiq",
        path.parent,
        path,
        {"sheet": "cannot be read", "header": "no row of sheet", "empty row": "line 8"}[change],
    )


def npy(values, **options):
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"0.5", "cannot be read"),
        (npy(np.array([0.5]))[:-3], "cannot be read"),
        (npy(np.array([0.5, 0.5])), "cannot be read"),
        (npy(np.array([])), "cannot be read"),
        (npy(np.array([{"judge": 0.5}], object), allow_pickle=True), "allow_pickle"),
        (npy(np.array([np.nan])), "expected 0 to 1"),
        (npy(np.array([1.5])), "expected 0 to 1"),
        (npy(np.array(["p1"])), "expected a number"),
    ],
)
def test_bapps_judgements(root_of, content, reason):
    root = root_of("bapps")
    file = root / "val/color/judge/000000.npy"
    write(file, content)
    told("bapps", root, file, reason)


@pytest.mark.parametrize("side", ["ref", "p0", "p1", "judge"])
def test_bapps_file_that_one_of_the_folders_lacks(root_of, side):
    root = root_of("bapps")
    file = next((root / "train/cnn" / side).glob("000001.*"))
    file.unlink()
    told("bapps", root, file, "is missing")


@pytest.mark.parametrize("side", ["ref", "p0", "p1", "judge"])
def test_bapps_file_that_only_one_of_the_folders_has(root_of, side):
    root = root_of("bapps")
    file = next((root / "train/cnn" / side).glob("000001.*"))
    os.link(file, file.with_stem("000009"))
    told("bapps", root, "000009", "is missing")


def test_bapps_set_that_is_missing(root_of):
    root = root_of("bapps")
    shutil.rmtree(root / "val/deblur")
    told("bapps", root, "val/deblur/ref", "is missing")


# Images

IMAGES = {
    "truncated": (lambda whole: whole[: len(whole) // 2], "cannot be decoded"),
    "empty": (lambda whole: b"", "cannot be decoded"),
    "text": (lambda whole: b"404 not found", "cannot be decoded"),
    "16 bit": (lambda whole: encoded(mode="I;16"), "8-bit"),
    "transparent": (lambda whole: encoded(mode="RGBA"), "transparent"),
    "other size": (lambda whole: encoded((SIDE, SIDE + 2)), "unequal sizes"),
}
NUMBER = 2  # of the record whose image is damaged
sides = pytest.mark.parametrize("which", [0, -1], ids=["reference", "distorted"])


def image_of(tree, root, which):
    return read(tree, root).records[NUMBER].images[which]


@sides
@pytest.mark.parametrize("damage", IMAGES)
@trees
def test_damaged_image_is_told(root_of, tree, damage, which):
    root = root_of(tree)
    file = image_of(tree, root, which)
    make, reason = IMAGES[damage]
    write(file, make(file.read_bytes()))
    with pytest.raises(ValueError, match=reason) as caught:
        read(tree, root)[NUMBER]
    assert file.name in str(caught.value)
    assert any(str(file) in problem for problem in check(name_of(tree), root).problems)


@sides
@trees
def test_missing_image_is_told(root_of, tree, which):
    root = root_of(tree)
    file = image_of(tree, root, which)
    file.unlink()
    told(tree, root, file, "is missing.*Official page")


@trees
def test_all_missing_images_are_counted(root_of, tree):
    root = root_of(tree)
    files = [*dict.fromkeys(record.images[-1] for record in read(tree, root).records)]
    for file in files:
        file.unlink()
    with pytest.raises(DataError, match=rf": {len(files)} of \d+ images are missing"):
        read(tree, root)
    problems = "\n".join(check(name_of(tree), root).problems)
    assert all(file.name.lower() in problems.lower() for file in files)


def test_workers_of_a_loader_tell_damage_and_read_the_rest(root_of):
    roots = {tree: root_of(tree) for tree in TREES}
    files = [image_of(tree, root, -1) for tree, root in roots.items()]
    for file in files:
        write(file, file.read_bytes()[:120])
    datasets = [read(tree, root) for tree, root in roots.items()]
    numbers = [start + number for start in np.cumsum([0, *map(len, datasets[:-1])]) for number in (NUMBER, 5)]
    items = iter(DataLoader(ConcatDataset(datasets), batch_size=None, sampler=numbers, num_workers=1))
    for dataset, file in zip(datasets, files, strict=True):
        with pytest.raises(ValueError, match=file.name):
            next(items)
        *_, target = next(items)
        assert target.item() == dataset.targets[5]
    assert not [*items]
