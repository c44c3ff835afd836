"""`python -m iqa_lib.score`: folders and CSV files, the table that grows on disk, and what it never destroys."""

import io
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import iqa_lib
from iqa_lib import images
from iqa_lib.lab import batches, records, scoring
from iqa_lib.lab.command import main
from iqa_lib.metrics import krocc, plcc, srocc

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(48, 64, 3), dtype=np.uint8)
NOISY = np.clip(PIXELS.astype(int) + RNG.integers(-30, 30, PIXELS.shape), 0, 255).astype(np.uint8)
RGB = Image.fromarray(PIXELS)
READ_IMAGE = images.read_image


def images_at(root, *names, image=RGB):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name, format="PNG")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command in an empty folder: its exit status, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """100 small references and distorted images of the same names, with other endings."""
    root = tmp_path_factory.mktemp("hundred")
    rng = np.random.default_rng(3)
    for folder in ("ref", "dist"):
        (root / folder).mkdir()
    for number in range(100):
        pixels = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "ref" / f"{number:03}.png")
        Image.fromarray(pixels // 2 + number // 2).save(root / "dist" / f"{number:03}.bmp")
    return root


# --- folders


def test_two_folders_give_what_the_single_images_give(folders, run, tmp_path):
    status, _, told = run(folders / "ref", folders / "dist", "--metric", "ssim,mse", "--csv", "o.csv")
    table = pd.read_csv(tmp_path / "o.csv")
    assert status == 0
    assert list(table) == ["reference", "distorted", "ssim", "mse", "error", "warning", "meaning"]
    for row in table.itertuples():
        pair = tmp_path / row.reference, tmp_path / row.distorted
        assert (row.ssim, row.mse) == (iqa_lib.score(*pair, "ssim"), iqa_lib.score(*pair, "mse"))
        assert row.meaning == "; ".join(scoring.load(name).meaning for name in ("ssim", "mse"))
    worst = table.distorted[table.mse.idxmax()]
    assert f"ssim: 100 of 100 scored, mean {table.ssim.mean():.4g}, median {table.ssim.median():.4g}, worst: " in told
    assert f"mse: 100 of 100 scored, mean {table.mse.mean():.4g}" in told
    assert f"worst: {worst} {table.mse.max():.4g}," in told


def test_each_image_is_read_once_for_all_metrics(folders, run, monkeypatch):
    read = []
    monkeypatch.setattr(images, "read_image", lambda path, **given: read.append(path) or READ_IMAGE(path, **given))
    assert run(folders / "ref/007.png", folders / "dist", "--metric", "psnr,ssim,gmsd")[0] == 0
    assert len(read) == len(set(read)) == 101


def test_one_reference_serves_a_folder_and_the_table_goes_to_the_screen(folders, run):
    status, out, _ = run(folders / "ref/007.png", folders / "dist", "--metric", "psnr")
    shown = pd.read_csv(io.StringIO(out))
    assert (status, len(shown), shown.psnr.idxmax()) == (0, 100, 7)


def test_images_without_a_partner_are_named(run, tmp_path):
    images_at(tmp_path, "ref/a.png", "ref/b.png", "dist/a.png", "dist/c.png")
    status, _, told = run("ref", "dist", "--metric", "psnr")
    assert status == 1
    assert "2 of 4 images have no partner" in told
    assert "dist/c.png, ref/b.png" in told


def test_a_dangling_link_and_a_folder_with_the_name_of_an_image(run, tmp_path):
    images_at(tmp_path, "ref/a.png", "ref/b.png", "dist/a.png", "dist/folder.png/x.txt")
    (tmp_path / "dist/b.png").symlink_to("gone.png")
    status, _, told = run("ref", "dist", "--metric", "psnr")
    assert (status, "not scored: distorted: there is no file dist/b.png" in told) == (1, True)
    assert "psnr: 1 of 2 scored" in told
    assert "1 subfolder" in told


def test_what_is_left_out_is_counted(run, tmp_path):
    images_at(tmp_path, "ref/a.png", "dist/a.png", "dist/deep/b.png", "dist/notes.txt", "dist/.hidden.png")
    assert (
        "left out of dist: 1 hidden; 1 not images by their endings: notes.txt; 1 subfolder, which --recursive takes"
        in (run("ref", "dist", "--metric", "psnr")[2])
    )


def test_subfolders_are_taken_when_asked_for(run, tmp_path):
    images_at(tmp_path, "ref/a.png", "ref/deep/a.png", "dist/a.bmp", "dist/deep/a.png")
    status, out, _ = run("ref", "dist", "--metric", "mse", "--recursive")
    table = pd.read_csv(io.StringIO(out))
    assert status == 0
    assert table[["reference", "distorted"]].to_numpy().tolist() == [
        ["ref/a.png", "dist/a.bmp"],
        ["ref/deep/a.png", "dist/deep/a.png"],
    ]


@pytest.mark.parametrize(
    ("references", "distorted", "wanted"),
    [
        (["I01", "I02"], ["I01_01_02", "I01_25_05", "I02_01_01"], ["I01", "I01", "I02"]),  # KADID-10k
        (["I1", "I10"], ["i1-1", "i10-1"], ["I1", "I10"]),  # TID2013 writes i01 for I01; I1 is no beginning of I10
        (["cup", "cup_red"], ["cup_red_1", "cup_blue"], ["cup_red", "cup"]),
        (["a b"], ["a b (1)", "a b.jpeg"], ["a b", "a b"]),
    ],
)
def test_one_reference_serves_the_images_that_begin_with_its_name(tmp_path, references, distorted, wanted):
    images_at(tmp_path, *(f"ref/{name}.png" for name in references), *(f"dist/{name}.bmp" for name in distorted))
    pairs = batches.pairs_of_folders(tmp_path / "ref", tmp_path / "dist")
    found = {Path(pair["distorted"]).stem: Path(pair["reference"]).stem for pair in pairs}
    assert found == dict(zip(distorted, wanted, strict=True))


def test_equal_names_and_beginnings_are_not_mixed(tmp_path):
    """img_2 may be a distorted img, or its own reference may be missing."""
    images_at(tmp_path, "ref/img.png", "ref/img_1.png", "dist/img_1.png", "dist/img_2.png", "dist/img.png")
    with pytest.raises(ValueError, match=r"no partner .*dist/img_2\.png"):
        batches.pairs_of_folders(tmp_path / "ref", tmp_path / "dist")


def test_two_images_of_one_name_and_an_empty_folder_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "a.bmp"):
        RGB.save(tmp_path / name)
    with pytest.raises(ValueError, match=r"two images of one name.*a\.bmp"):
        batches.pairs_of_folders(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="holds no image"):
        batches.pairs_of_folders(tmp_path, tmp_path / "empty")
    with pytest.raises(ValueError, match="is not a folder"):
        batches.pairs_of_folders(tmp_path, tmp_path / "gone")


# --- what goes wrong with one image


def test_a_broken_image_costs_its_row_only(run, tmp_path):
    images_at(tmp_path, *(f"{folder}/{name}.png" for folder in ("ref", "dist") for name in "abc"))
    (tmp_path / "dist/b.png").write_bytes(b"")
    (tmp_path / "pairs.csv").write_text("reference,distorted\nref/a.png,dist/a.png\nref/a.png,dist/gone.png\n")
    status, _, told = run("ref", "dist", "--metric", "mse", "--csv", "o.csv")
    table = pd.read_csv(tmp_path / "o.csv")
    assert status == 1
    assert table.mse.isna().tolist() == [False, True, False]
    assert "cannot be decoded" in table.error[1]
    assert "2 of 3 scored" in told
    assert "not scored: dist/b.png: cannot be decoded" in told
    status, _, told = run("pairs.csv", "--metric", "mse")
    assert (status, "there is no file" in told) == (1, True)


@pytest.mark.parametrize("error", [MemoryError(), KeyError("dimensions"), RuntimeError("AVIF"), NotImplementedError()])
def test_whatever_a_decoder_raises_costs_one_row(run, tmp_path, monkeypatch, error):
    def read(path, **options):
        if "b.png" in str(path):
            raise error
        return READ_IMAGE(path, **options)

    images_at(tmp_path, *(f"{folder}/{name}.png" for folder in ("ref", "dist") for name in "abc"))
    monkeypatch.setattr(images, "read_image", read)
    assert run("ref", "dist", "--metric", "mse", "--csv", "o.csv")[0] == 1
    table = pd.read_csv(tmp_path / "o.csv")
    assert table.mse.isna().tolist() == [False, True, False]
    assert (str(error) or type(error).__name__) in table.error[1]
    status, out, told = run("ref/b.png", "dist/b.png", "--metric", "mse")
    assert (status, out, (str(error) or type(error).__name__) in told) == (1, "", True)


def test_a_metric_that_is_undefined_for_a_pair_costs_its_own_column(run, tmp_path):
    images_at(tmp_path, "r.png", "d.png")
    status, out, told = run("r.png", "d.png", "--metric", "psnr,ms-ssim")
    assert (status, out.startswith("inf  psnr")) == (1, True)
    assert "ms-ssim: an image: got 48x64, expected sides of at least 161" in told


def test_what_the_decoder_remarks_is_a_column(run, tmp_path):
    images_at(tmp_path, "ref/a.png", "ref/b.png")
    (tmp_path / "dist").mkdir()
    for name in "ab":
        RGB.save(tmp_path / f"dist/{name}.jpg")
    whole = bytearray((tmp_path / "dist/b.jpg").read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 20] = b"\xff\xd3" * 10
    (tmp_path / "dist/b.jpg").write_bytes(whole)
    status, _, told = run("ref", "dist", "--metric", "mse", "--csv", "o.csv")
    table = pd.read_csv(tmp_path / "o.csv")
    assert (status, table.mse.isna().any(), table.warning.isna().tolist()) == (0, False, [True, False])
    assert table.warning[1].startswith("dist/b.jpg: damaged, some of its pixels may be wrong")
    assert "warning: dist/b.jpg: damaged" in told


def test_the_cause_of_unequal_sizes_is_told_in_a_row(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    images_at(tmp_path, "r.png")
    RGB.save(tmp_path / "d.jpg", exif=exif)
    assert "of which EXIF turns distorted only" in run("r.png", "d.jpg", "--metric", "mse")[2]


# --- CSV files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns (none)"),
        ("reference,distorted\n", "has no row"),
        ("ref,dist\na,b\n", "has the columns ref, dist, expected reference,distorted"),
        ("reference;distorted\na;b\n", "separate them by commas"),
        ("reference,distorted,mos,mos\na,b,1,2\n", "each once"),
        ("reference,distorted\na.png,b.png\na.png,\n", "row 3 has nothing under distorted"),
        ("reference,distorted\na.png,b.png\n\nr.png,d.png,j.jpg\n", "row 4 has 3 cells, expected 2 as in line 1"),
        ("reference,distorted,mos\na.png,b.png\n", "row 2 has 2 cells, expected 3"),
        ('reference,distorted\na.png,"b.png\n', "is not a readable CSV"),
        ("reference,distorted\n\xff\xfe", "is not a readable CSV"),
    ],
)
def test_a_csv_that_names_no_pairs_is_refused(run, tmp_path, text, message):
    (tmp_path / "pairs.csv").write_bytes(text.encode("latin-1"))
    status, _, told = run("pairs.csv", "--metric", "psnr")
    assert status == 1
    assert message in told


def test_triplets_from_a_csv_with_a_byte_order_mark(run, tmp_path):
    Image.fromarray(NOISY).save(tmp_path / "a.png")
    RGB.save(tmp_path / "r.png")
    (tmp_path / "t.csv").write_bytes("\ufeffreference,a,b\nr.png,a.png,r.png\nr.png,r.png,a.png\n".encode())
    status, out, told = run("t.csv", "--metric", "ssim")
    assert (status, pd.read_csv(io.StringIO(out)).ssim.tolist()) == (0, [1.0, 0.0])
    assert "ssim: 2 of 2 scored, mean 0.5; ssim" in told


def test_all_columns_of_a_csv_are_kept_and_a_table_of_ours_can_be_read_again(run, tmp_path):
    images_at(tmp_path, "r.png", "Ä, b.png")
    (tmp_path / "pairs.csv").write_text(
        'who,reference,note,distorted\nNA,r.png,"1, 2",r.png\n"x\ny",r.png,,"Ä, b.png"\n', "utf-8"
    )
    assert run("pairs.csv", "--metric", "psnr", "--csv", "first.csv")[0] == 0
    assert run("first.csv", "--metric", "gmsd", "--csv", "deep/second.csv")[0] == 0
    table = pd.read_csv(tmp_path / "deep/second.csv", keep_default_na=False)
    assert list(table) == ["who", "reference", "note", "distorted", "psnr", "gmsd", "error", "warning", "meaning"]
    assert table.who.tolist() == ["NA", "x\ny"]
    assert table.note.tolist() == ["1, 2", ""]
    assert table.distorted.tolist() == ["../r.png", "../Ä, b.png"]
    assert table.meaning[0].startswith("psnr (higher is better, 0 to inf): PSNR, iqa_lib; gmsd (lower is better")
    status, _, told = run("first.csv", "--metric", "psnr", "--csv", "third.csv")
    assert (status, "columns that the scores need: psnr; rename" in told) == (1, True)


# --- what --csv never destroys


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photo.png", "expected a CSV file"),
        ("table.xlsx", "expected a CSV file"),
        ("mine.csv", "is there and no table of scores"),
        ("photo.csv", "is there and no table of scores"),
        ("link.csv", "a link, expected a file"),
        ("folder.csv", "a folder, expected a file"),
        ("pairs.csv", "the input itself"),
        ("scores.csv", "holds scores: add --resume"),
    ],
)
def test_a_target_that_is_not_new_is_left_as_it_is(run, tmp_path, name, message):
    images_at(tmp_path, "r.png", "photo.png", "photo.csv")
    (tmp_path / "mine.csv").write_text("name,age\n")
    (tmp_path / "link.csv").symlink_to("mine.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "pairs.csv").write_text("reference,distorted\nr.png,r.png\n")
    assert run("pairs.csv", "--metric", "mse", "--csv", "scores.csv")[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    status, _, told = run("pairs.csv", "--metric", "mse", "--csv", name)
    assert (status, message in told) == (1, True), told
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert (tmp_path / "link.csv").is_symlink()


def test_a_target_that_cannot_be_written_ends_before_the_first_score(run, tmp_path, monkeypatch):
    images_at(tmp_path, "r.png")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(scoring.Metric, "score", None)
    status, _, told = run("r.png", "r.png", "--metric", "mse", "--csv", "file/o.csv")
    assert (status, "file" in told) == (1, True)


def test_a_disk_that_is_full_costs_no_finished_row(run, folders, tmp_path, monkeypatch):
    writes = []

    class Full(io.TextIOWrapper):
        def write(self, text):
            writes.append(text)
            if len(writes) > 3:
                raise OSError(28, "No space left on device")
            return super().write(text)

    def opened(file, mode="r", **options):
        return Full(open(file, "ab"), "utf-8", newline="") if mode == "a" else open(file, mode, **options)

    monkeypatch.setattr(batches, "open", opened, raising=False)
    status, _, told = run(folders / "ref", folders / "dist", "--metric", "mse", "--csv", "o.csv")
    assert (status, "stopped: o.csv holds 3 of 100 rows; the same command with --resume" in told) == (1, True)
    assert "No space left" in told
    assert len(pd.read_csv(tmp_path / "o.csv")) == 3


def test_names_that_no_terminal_prints_and_utf8_cannot_hold(tmp_path):
    """Names in Latin-1 and in Chinese under a locale of ASCII: each has its row, in UTF-8."""
    (tmp_path / "dist").mkdir()
    RGB.save(tmp_path / "r.png")
    for name in (b"a.png", b"\xe9t\xe9.png", "图.png".encode()):
        shutil.copy(tmp_path / "r.png", os.path.join(os.fsencode(tmp_path / "dist"), name))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "iqa_lib.score", "r.png", "dist", "--metric", "psnr"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=os.environ | ascii_only)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(io.BytesIO(done.stdout))
    assert table.distorted.tolist() == ["dist/a.png", "dist/图.png", "dist/\\xe9t\\xe9.png"]
    assert np.isinf(table.psnr).all()


# --- a run that is stopped, and --resume


def test_rows_that_failed_are_tried_again(run, tmp_path):
    images_at(tmp_path, "ref/a.png", "ref/b.png", "dist/a.png")
    (tmp_path / "dist/b.png").write_bytes(b"no image")
    command = "ref", "dist", "--metric", "mse", "--csv", "o.csv"
    assert run(*command)[0] == 1
    images_at(tmp_path, "dist/b.png")
    status, _, told = run(*command, "--resume")
    assert (status, "o.csv has 2 of 2 rows, which are kept; 1 that failed are tried again" in told) == (0, True)
    assert pd.read_csv(tmp_path / "o.csv").mse.tolist() == [0, 0]


def test_an_image_replaced_by_one_of_an_older_date_is_noticed(run, tmp_path):
    images_at(tmp_path, "ref/a.png", "dist/a.png", "other.png")
    command = "ref", "dist", "--metric", "mse", "--csv", "o.csv"
    assert run(*command)[0] == 0
    os.utime(tmp_path / "other.png", (0, 0))
    time.sleep(0.02)
    os.replace(tmp_path / "other.png", tmp_path / "dist/a.png")
    assert "dist/a.png has changed since o.csv was written" in run(*command, "--resume")[2]


def test_a_carriage_return_in_a_cell_leaves_the_table_whole(run, tmp_path):
    images_at(tmp_path, "r.png")
    (tmp_path / "pairs.csv").write_bytes(b'reference,distorted,note\nr.png,r.png,"a\rb"\n')
    for more in ((), ("--resume",)):
        assert run("pairs.csv", "--metric", "mse", "--csv", "o.csv", *more)[0] == 0
        assert pd.read_csv(tmp_path / "o.csv").note.tolist() == ["a\\rb"]


def stop_after(monkeypatch, rows, error):
    scores, compute = iter(range(rows)), scoring.Metric._compute

    def until(self, **images):
        if next(scores, None) is None:
            raise error
        return compute(self, **images)

    monkeypatch.setattr(scoring.Metric, "_compute", until)


def test_an_interrupted_run_keeps_what_was_done_and_resumes(run, folders, tmp_path, monkeypatch):
    command = folders / "ref", folders / "dist", "--metric", "psnr", "--csv"
    assert run(*command, "whole.csv")[0] == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 20, KeyboardInterrupt())
        status, _, told = run(*command, "o.csv")
    assert (status, "holds 20 of 100 rows" in told) == (130, True)
    assert (tmp_path / "o.csv").read_text() == "".join((tmp_path / "whole.csv").read_text().splitlines(True)[:21])
    status, _, told = run(*command, "o.csv", "--resume")
    assert (status, "has 20 of 100 rows" in told, "psnr: 100 of 100 scored" in told) == (0, True, True)
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert run(*command, "o.csv", "--resume")[0] == 0
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_row_that_was_cut_anywhere_is_made_again(run, tmp_path):
    images_at(tmp_path, "r.png", "ä.png")
    (tmp_path / "pairs.csv").write_text(
        'reference,distorted,note\nr.png,ä.png,"1\n2"\nr.png,r.png,"a ""b"""\n', "utf-8"
    )
    command = "pairs.csv", "--metric", "mse", "--csv"
    assert run(*command, "whole.csv")[0] == 0
    whole = (tmp_path / "whole.csv").read_bytes()
    header = whole.index(b"\n") + 1
    for end in [*range(header, len(whole), 7), whole.index(b'"1\n') + 3]:
        (tmp_path / "o.csv").write_bytes(whole[:end])
        assert run(*command, "o.csv", "--resume")[0] == 0
        assert (tmp_path / "o.csv").read_bytes() == whole, end


def test_a_table_of_other_images_or_metrics_is_not_gone_on_with(run, tmp_path):
    images_at(tmp_path, "r.png", "a.png", "b.png")
    (tmp_path / "pairs.csv").write_text("reference,distorted,mos\nr.png,a.png,1\nr.png,b.png,2\n")
    (tmp_path / "other.csv").write_text("reference,distorted,mos\nr.png,b.png,1\nr.png,a.png,2\n")
    (tmp_path / "rated.csv").write_text("reference,distorted,mos\nr.png,a.png,1\nr.png,b.png,3\n")
    (tmp_path / "short.csv").write_text("reference,distorted,mos\nr.png,a.png,1\n")
    assert run("pairs.csv", "--metric", "mse", "--csv", "o.csv")[0] == 0
    before = (tmp_path / "o.csv").read_bytes()
    for arguments, message in (
        (("other.csv", "--metric", "mse"), "row 2 has a.png, expected b.png"),
        (("rated.csv", "--metric", "mse"), "row 3 has 2, expected 3"),
        (("short.csv", "--metric", "mse"), "holds 2 rows"),
        (("pairs.csv", "--metric", "psnr"), "expected at most 2 of reference, distorted, mos, psnr"),
    ):
        status, _, told = run(*arguments, "--csv", "o.csv", "--resume")
        assert (status, message in told) == (1, True), told
    (tmp_path / "o.csv").write_bytes(before.replace(b"MSE, iqa_lib", b"MSE, another"))
    assert "MSE, another, expected mse" in run("pairs.csv", "--metric", "mse", "--csv", "o.csv", "--resume")[2]
    (tmp_path / "o.csv").write_bytes(before)
    os.utime(tmp_path / "b.png", (time.time() + 9, time.time() + 9))
    status, _, told = run("pairs.csv", "--metric", "mse", "--csv", "o.csv", "--resume")
    assert (status, "b.png has changed since o.csv was written" in told) == (1, True)
    assert (tmp_path / "o.csv").read_bytes() == before


STOPPABLE = """
import sys, time
from iqa_lib.lab import scoring
from iqa_lib.lab.command import main
score = scoring.Metric.score
scoring.Metric.score = lambda *given: time.sleep(0.002) or score(*given)
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"])
def test_a_kill_loses_no_finished_row(run, folders, tmp_path, name):
    """A signal at a random moment of the scoring, by a seed."""
    command = [str(folders / "ref"), str(folders / "dist"), "--metric", "mse", "--csv"]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPABLE, *command, "o.csv"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    while not (tmp_path / "o.csv").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(random.Random(name).uniform(0, 0.2))
    seen = (tmp_path / "o.csv").read_bytes()
    process.send_signal(signal.Signals[name])
    told = process.communicate(timeout=30)[1].decode()
    assert "Traceback" not in told
    assert (tmp_path / "o.csv").read_bytes().startswith(seen)
    assert run(*command, "o.csv", "--resume")[0] == 0
    assert run(*command, "whole.csv")[0] == 0
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


# --- agreement with people


@pytest.fixture
def rated(tmp_path):
    """Three references, each under five levels of noise, with human scores that follow the level but for some noise."""
    rng, lines = np.random.default_rng(5), []
    for number in range(3):
        pixels = rng.integers(60, 190, size=(24, 24, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"r{number}.png")
        for level in range(1, 6):
            noise = rng.normal(0, 8 * level, pixels.shape)
            Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / f"d{number}{level}.png")
            lines.append(f"r{number}.png,d{number}{level}.png,{5 - level + rng.normal(0, 0.7):.3f}")
    return lines


def test_agreement_with_people_is_that_of_the_evaluation(run, tmp_path, rated):
    (tmp_path / "pairs.csv").write_text("\n".join(["reference,distorted,mos", *rated]))
    status, _, told = run("pairs.csv", "--metric", "psnr,mse", "--csv", "o.csv", "--plot", "out.png")
    assert status == 0, told
    table = pd.read_csv(tmp_path / "o.csv")
    for metric, sign in (("psnr", 1), ("mse", -1)):
        for measure in (srocc, plcc, krocc):
            wanted = measure(sign * table[metric], table.mos, table.reference)
            assert f"{metric} {measure.__name__.upper()} {wanted}" in told
            assert "(n=15, 3 references)" in told
    assert Image.open(tmp_path / "out.png").width > 500
    status, _, told = run("pairs.csv", "--metric", "psnr", "--plot", "out.png")
    assert (status, "--plot: got out.png, expected a new file" in told) == (1, True)


def test_agreement_with_another_column_and_what_is_no_score(run, tmp_path, rated):
    (tmp_path / "pairs.csv").write_text("\n".join(["reference,distorted,dmos", *rated]))
    status, out, told = run("pairs.csv", "--metric", "mse", "--mos", "dmos")
    assert (status, "agreement with dmos" in told, "mse SROCC 0." in told) == (0, True, True)
    assert "agreement" not in run("pairs.csv", "--metric", "mse")[2]
    assert "--mos: got mos, expected a column of the input: reference, d" in run("pairs.csv", "--mos", "mos")[2]
    assert run("pairs.csv", "--plot", "x.png")[0] == 2
    (tmp_path / "pairs.csv").write_text("\n".join(["reference,distorted,mos", *rated[:-1], "r2.png,d25.png,"]))
    assert "(n=14, 3 references)" in run("pairs.csv", "--metric", "mse")[2]
    (tmp_path / "pairs.csv").write_text("\n".join(["reference,distorted,mos", *rated[:-1], "r2.png,d25.png,good"]))
    status, out, told = run("pairs.csv", "--metric", "mse")
    assert (status, out, "mos: got 'good' for " in told) == (1, "", True)


# --- the command


def test_the_command_prints_the_score_and_its_meaning(run, tmp_path):
    images_at(tmp_path, "r.png")
    images_at(tmp_path, "d.png", image=Image.fromarray(NOISY))
    assert run("r.png", "d.png", "--metric", "ssim")[1].strip() == repr(iqa_lib.score("r.png", "d.png", "ssim"))
    assert "st-lpips-alex (lower is better" in run("r.png", "d.png")[1]
    assert run("r.png", "d.png", "r.png", "--metric", "ssim")[1].startswith("1  1: B is closer")
    assert run("r.png", "d.png", "--metric", "ssim", "--csv", "o.csv")[0] == 0
    assert pd.read_csv(tmp_path / "o.csv").distorted.tolist() == ["d.png"]
    status, out, _ = run("--list")
    assert (status, re.search(r"^topiq-fr .* not here .* PolyForm", out, re.M) is not None) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "expected REF DIST"),
        (["one.png"], 2, "got one.png alone"),
        (["r.png", "d.png", "--option", "vit"], 2, "NAME=VALUE"),
        (["r.png", "d.png", "--option", "vit=[1,"], 2, "vit=[1,, whose value cannot be read"),
        (["r.png", "d.png", "--option", "device=cpu"], 2, "NAME=VALUE of the network"),
        (["r.png", "d.png", "--device", "meta"], 1, "device: got 'meta'"),
        (["r.png", "d.png", "--metric", "prfnet"], 1, "then --checkpoint 'outputs/smoke/03_prfnet"),
        (["r.png", "d.png", "--metric", "ssim"], 1, "reference: there is no file r.png"),
        (["r.png", "d.png", "--metric", "ssim,ssim"], 1, "expected each once"),
        (["r.png", "d.png", "--metric", "ssim,psnr", "--checkpoint", "x"], 2, "belong to one metric"),
        (["r.png", "d.png", "--resume"], 2, "expected --csv FILE"),
        (["r.png", "d.png", "--metric", "psnr,"], 2, "got 'psnr,', expected names with commas between them"),
        (["gone.csv", "--metric", "ssim"], 1, "gone.csv"),
        (["r.png", "d.png", "--metric", "ssim", "--option", "vit=b16"], 1, "leave them out"),
        ([".", "d.png"], 2, "there is no d.png"),
    ],
)
def test_the_exit_status_and_the_message_tell_what_is_wrong(run, monkeypatch, arguments, status, message):
    monkeypatch.setattr(records, "finished", lambda **_: iter(()))
    found, _, told = run(*arguments)
    assert (found, message in told) == (status, True), told
    assert not re.search(r"\b(checkpoint|weights)=", told)


def test_the_module_is_the_command_and_a_reader_that_stops_early_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["score", "r.png", "d.png", "--metric", "fr-nr"])
    monkeypatch.delitem(sys.modules, "iqa_lib.score", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module("iqa_lib.score", run_name="__main__", alter_sys=True)
    assert end.value.code == 1
    assert "The options are:" in capsys.readouterr().err
    reader = f"{sys.executable} -m iqa_lib.score --list | {shutil.which('true')}"
    assert subprocess.run(reader, shell=True, capture_output=True, text=True).stderr == ""
