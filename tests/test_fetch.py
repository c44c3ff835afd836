"""`fetch` brings whole data sets from servers that cut, lie and fail, and archives write nothing outside the folder."""

import errno
import io
import multiprocessing
import random
import shutil
import stat
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
from archive_server import Site, offered, packed, serving
from dataset_trees import LIVE_FOLDERS, TREES
from test_check import COUNTS

from iqa_lib.data import NAMES, DataError
from iqa_lib.data import fetch as fetching
from iqa_lib.data.__main__ import main
from iqa_lib.data.fetch import STATE, fetch
from iqa_lib.files import read_json

SOURCES = [
    (name, source)
    for name in NAMES
    if name != "demo"
    for source in import_module(f"iqa_lib.data.{name}").ORIGIN.sources
    if "without" not in source
]


@pytest.fixture
def site(monkeypatch):
    """A local server, also in the place of the hub; waiting costs no time."""
    monkeypatch.setattr("iqa_lib.data.live.FOLDERS", LIVE_FOLDERS)
    monkeypatch.setattr(fetching, "PAUSE", 0)
    monkeypatch.setattr(fetching, "PIECE", 512)  # the trees' archives hold some kB
    with serving(Site()) as served:
        template = f"{served.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


@pytest.fixture
def offer(site, monkeypatch, tmp_path):
    """A function that writes a data set's tree, with counts as published, and serves it."""

    def write(name, source, **options):
        module = import_module(f"iqa_lib.data.{name}")
        monkeypatch.setattr(module, "ORIGIN", replace(module.ORIGIN, counts=COUNTS[name]))
        TREES[name](tmp_path / "tree")
        if name == "clic":
            for part in ("train", "validation"):
                (tmp_path / f"tree/{part}/validation.csv").unlink(missing_ok=True)
        offered(site, monkeypatch, name, tmp_path / "tree", source, **options)
        return tmp_path / "tree"

    return write


def serve(site, monkeypatch, content, file="kadid10k.zip", **options):
    """Serve one archive as KADID-10k's."""
    module = import_module("iqa_lib.data.kadid10k")
    site.files[f"/{file}"] = content
    archive = replace(module.ORIGIN.sources["official"][0], address=f"{site.address}/{file}", **options)
    monkeypatch.setattr(module, "ORIGIN", replace(module.ORIGIN, sources={"official": (archive,)}))


def files(root):
    """Contents by place, without what `fetch` keeps for itself."""
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {str(place).lower(): path.read_bytes() for place, path in found.items() if place.parts[0] != STATE}


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_each_data_set_comes_whole_from_each_source(offer, site, tmp_path, name, source):
    tree, root = offer(name, source), tmp_path / "root"
    report = fetch(name, root, accept_terms=True)
    assert report.ok, str(report)
    if name != "clic":  # whose folders by first digit are left out
        assert files(root) == files(tree)
    receipt = read_json(root / STATE / "receipt.json")
    assert {entry["size"] for entry in receipt.values()} == {len(content) for content in site.files.values()}
    assert sorted(path.name for path in (root / STATE).iterdir() if path.name != "lock") == ["receipt.json"]
    sent = site.sent.copy()
    assert sent == {path: len(content) for path, content in site.files.items()}
    assert fetch(name, root, accept_terms=True).ok
    assert site.sent == sent


def test_terms_and_sizes_come_first(offer, site, tmp_path, capsys):
    offer("kadid10k", "official")
    assert main(["fetch", "kadid10k", str(tmp_path / "root")]) == 0
    told = capsys.readouterr().out
    size = f"{len(site.files['/kadid10k.zip']) / 1e6:.2f} MB"
    for words in ("freely available to the research community", size, "free in", "--accept-terms"):
        assert words in told
    assert not site.sent
    assert not (tmp_path / "root").exists()


def test_a_cut_connection_goes_on_and_sends_nothing_twice(offer, site, tmp_path):
    offer("kadid10k", "official")
    site.cut_after = 4 * fetching.PIECE
    assert fetch("kadid10k", tmp_path / "root", accept_terms=True).ok
    assert site.sent["/kadid10k.zip"] == len(site.files["/kadid10k.zip"])


def test_a_server_that_sends_nothing_more_is_given_up_and_gone_on_with_later(offer, site, tmp_path):
    offer("kadid10k", "official")
    site.failures = 100
    with pytest.raises(DataError, match=r"503.*the same command goes on"):
        fetch("kadid10k", tmp_path / "root", accept_terms=True)
    assert site.failures == 100 - fetching.TRIES
    site.failures = 2
    assert fetch("kadid10k", tmp_path / "root", accept_terms=True).ok


@pytest.mark.parametrize("ranges", ["none", "wrong"])
def test_a_server_without_ranges_or_with_wrong_ones_ends_whole(offer, site, tmp_path, ranges):
    offer("kadid10k", "official")
    root, whole = tmp_path / "root", site.files["/kadid10k.zip"]
    site.cut_after, site.ranges = len(whole) // 2, ranges
    with pytest.raises(DataError, match="goes on"):
        fetch("kadid10k", root, accept_terms=True)
    site.cut_after = 0
    assert fetch("kadid10k", root, accept_terms=True).ok


@pytest.mark.parametrize(
    ("name", "source", "path"), [("kadid10k", "official", "/kadid10k.zip"), ("csiq", "hub", "/csiq.tgz")]
)
def test_a_piece_that_is_another_than_told_is_found_and_deleted(offer, site, tmp_path, name, source, path):
    offer(name, source)
    root, site.ranges, site.cut_after = tmp_path / "root", "lying", len(site.files[path]) * 2 // 3
    with pytest.raises(DataError, match="SHA-256" if source == "hub" else "is damaged or no archive"):
        fetch(name, root, accept_terms=True)
    assert not files(root)
    site.ranges, site.cut_after = "right", 0
    assert fetch(name, root, accept_terms=True).ok


def test_other_bytes_at_the_second_try_are_fetched_anew(offer, site, tmp_path, capsys):
    offer("kadid10k", "official")
    root, whole = tmp_path / "root", site.files["/kadid10k.zip"]
    site.files["/kadid10k.zip"] = bytes(len(whole))
    site.cut_after, site.ranges = len(whole) // 2, "none"
    with pytest.raises(DataError):
        fetch("kadid10k", root, accept_terms=True)
    site.files["/kadid10k.zip"], site.cut_after, site.ranges = whole, 0, "right"
    assert fetch("kadid10k", root, accept_terms=True).ok
    assert "another file than before" in capsys.readouterr().out


def test_an_error_page_is_no_archive(site, monkeypatch, tmp_path):
    serve(site, monkeypatch, b"<html>The database has moved")
    with pytest.raises(DataError, match="begins with b'<html>The database has moved'"):
        fetch("kadid10k", tmp_path / "root", accept_terms=True)
    assert not files(tmp_path / "root")
    site.type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match=r"(?s)got a web page, expected a file.*by hand:.*kadid10k.zip"):
        fetch("kadid10k", tmp_path / "other", accept_terms=True)


def test_the_next_source_is_asked_if_one_does_not_answer(offer, site, monkeypatch, tmp_path, capsys):
    offer("kadid10k", "hub")
    module = import_module("iqa_lib.data.kadid10k")
    gone = {"official": (replace(module.ORIGIN.sources["hub"][0], address=f"{site.address}/gone.zip"),)}
    monkeypatch.setattr(module, "ORIGIN", replace(module.ORIGIN, sources=gone | module.ORIGIN.sources))
    assert fetch("kadid10k", tmp_path / "root", accept_terms=True).ok
    assert "not from official" in capsys.readouterr().out
    with pytest.raises(DataError, match="404"):
        fetch("kadid10k", tmp_path / "other", accept_terms=True, source="official")


def test_one_part_is_fetched_without_the_others(offer, site, tmp_path):
    offer("bapps", "official")
    report = fetch("bapps", tmp_path / "root", accept_terms=True, part="val")
    assert report.ok
    assert report.remarks == ("train was not unpacked",)
    assert set(site.sent) == {"/twoafc_val.tar.gz"}
    assert fetch("bapps", tmp_path / "root", accept_terms=True).remarks == ()


def test_what_no_program_can_fetch_says_how_to_by_hand(monkeypatch, tmp_path, capsys):
    module = import_module("iqa_lib.data.tid2013")
    monkeypatch.setattr(module, "ORIGIN", replace(module.ORIGIN, sources={}))
    assert main(["fetch", "tid2013", str(tmp_path), "--accept-terms"]) == 1
    told = capsys.readouterr().err
    for words in ("tid2013.rar", "unrar", "www.ponomarenko.info", "data check tid2013"):
        assert words in told


def test_a_disk_that_is_too_small_is_known_before(offer, monkeypatch, tmp_path):
    offer("kadid10k", "official")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"got 0\.00 MB of free disk"):
        fetch("kadid10k", tmp_path / "root", accept_terms=True)


@pytest.mark.parametrize("after", [1, 4])
def test_a_full_disk_stops_and_goes_on(offer, site, monkeypatch, tmp_path, after):
    """While the archive is written, and while its files are."""
    offer("kadid10k", "official")
    writes, copy = iter(range(100)), shutil.copyfileobj

    def full(*arguments):
        if next(writes) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(*arguments)

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(DataError, match=r"the disk is full.*goes on"):
        fetch("kadid10k", tmp_path / "root", accept_terms=True)
    assert len(files(tmp_path / "root")) == after
    assert fetch("kadid10k", tmp_path / "root", accept_terms=True).ok
    assert site.sent["/kadid10k.zip"] == len(site.files["/kadid10k.zip"])


def zip_with(name, mode=stat.S_IFREG, flags=0):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("dmos.csv", b"fine")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, b"/etc/passwd")
        info.flag_bits |= flags
    return buffer.getvalue()


def tar_with(name, kind=tarfile.REGTYPE, target=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("dmos.csv"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo(f"{name}/below"))
    return buffer.getvalue()


HOSTILE = {
    "above.zip": zip_with("../above.txt"),
    "deep.zip": zip_with("images/../../above.txt"),
    "absolute.zip": zip_with("/tmp/above.txt"),
    "windows.zip": zip_with("..\\above.txt"),
    "drive.zip": zip_with("C:\\above.txt"),
    "link.zip": zip_with("images", mode=stat.S_IFLNK),
    "password.zip": zip_with("images/I01.png", flags=1),
    "above.tgz": tar_with("../above.txt"),
    "absolute.tar.gz": tar_with("/tmp/above.txt"),
    "symbolic.tgz": tar_with("images", tarfile.SYMTYPE, ".."),
    "hard.tgz": tar_with("images", tarfile.LNKTYPE, "/etc/passwd"),
    "device.tgz": tar_with("images", tarfile.CHRTYPE),
    "fifo.tgz": tar_with("images", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("file", HOSTILE)
def test_no_archive_writes_outside_the_folder(site, monkeypatch, tmp_path, file):
    serve(site, monkeypatch, HOSTILE[file], file)
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(DataError, match="nothing was written"):
        fetch("kadid10k", tmp_path / "in/root", accept_terms=True)
    assert not files(tmp_path / "in/root")
    after = {path for path in tmp_path.rglob("*") if STATE not in path.parts}
    assert after - before == {tmp_path / "in", tmp_path / "in/root"}


def test_a_link_in_the_folder_leads_no_file_out_of_it(site, monkeypatch, tmp_path):
    serve(site, monkeypatch, packed({"dmos.csv": b"1", "images/I01.png": b"2"}, ".zip"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="got a link out of"):
        fetch("kadid10k", tmp_path / "root", accept_terms=True)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_users_file_is_never_overwritten(site, monkeypatch, tmp_path):
    serve(site, monkeypatch, packed({"dmos.csv": b"1", "images/I01.png": b"2"}, ".zip"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/I01.png").write_bytes(b"my own")
    with pytest.raises(DataError, match=r"images/I01\.png: got another file of this name"):
        fetch("kadid10k", tmp_path, accept_terms=True)
    assert (tmp_path / "images/I01.png").read_bytes() == b"my own"


def test_a_folder_that_holds_the_set_is_left_alone(offer, tmp_path):
    tree = offer("kadid10k", "official")
    with pytest.raises(DataError, match="holds kadid10k already"):
        fetch("kadid10k", tree, accept_terms=True)


def killed(work, seconds):
    """Start `work` in a process of its own, and kill it after so many seconds unless it has ended."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()


def quiet_fetch(name, root):
    with suppress(DataError):
        fetch(name, root, accept_terms=True)


def test_killed_ten_times_it_is_whole_and_nothing_that_was_kept_is_fetched_again(offer, site, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "PIECE", 1 << 14)
    tree = offer("pieapp", "hub")
    noise = {f"copy/labels/noise{n}.bin": random.Random(n).randbytes(400_000) for n in range(25)}
    content = {f"copy/{path.relative_to(tree)}": path for path in tree.rglob("*") if path.is_file()}
    site.files["/pieapp.tgz"], site.delay = packed(content | noise, ".tgz"), 0.001
    root, dice, kept = tmp_path / "root", random.Random(0), {0}
    for _ in range(10):
        killed(lambda: quiet_fetch("pieapp", root), dice.uniform(0.05, 0.3))
        kept |= {file.stat().st_size for file in (root / STATE).glob("*.part")}
    site.delay = 0
    assert fetch("pieapp", root, accept_terms=True).ok
    assert all((root / name.removeprefix("copy/")).read_bytes() == data for name, data in noise.items())
    begins = [begin for _, begin in site.begins]
    assert begins == sorted(begins)
    assert set(begins) <= kept
