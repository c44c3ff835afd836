"""`fetch` a data set from its public addresses: goes on where it was cut, unpacks inside the folder, then checks.

What is known about a download and what came is in `ROOT/.fetch/`: the file that is being fetched, and a receipt. An
address that answers with other bytes than before is fetched anew. Of the hub's data set repository the SHA-256 is
known before; elsewhere the size is compared, and the SHA-256 of what came is written to the receipt.

`huggingface_hub` finds the hub's files and their hashes; it no longer goes on with a file that a killed process has
left, and neither does pooch, so both kinds of address are fetched by the same lines here, on `requests`.
"""

import errno
import gzip
import os
import re
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, NamedTuple
from urllib.parse import urlparse

import requests
from filelock import FileLock, Timeout

from iqa_lib.checks import check_choice
from iqa_lib.data.base import DataError, reader
from iqa_lib.data.check import DEMO, Report, check
from iqa_lib.data.folder import HUB, Archive, Folder, Origin
from iqa_lib.files import intact, read_json, sha256, write_json
from iqa_lib.progress import Progress, progress

STATE = ".fetch"  # in the data set's folder
RECEIPT = "receipt.json"
TIMEOUT = 20, 60  # seconds to connect, and between two pieces
TRIES = 6  # in a row that bring nothing
PAUSE = 1.0  # seconds after the first of them, doubled after each
PLAIN = {"Accept-Encoding": "identity"}  # the file's own bytes, of which ranges can be asked
PIECE = 1 << 16  # bytes; a killed process loses at most what is under way
UNPACKED = 1.5  # size of the files over their archive's, which is all that is known before
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
DAMAGE = zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError


class Damaged(DataError):
    """What a server sent is not what was expected: it is deleted."""


@dataclass(frozen=True)
class Remote:
    """What a server says about a file."""

    url: str
    size: int | None  # bytes
    tag: str = ""  # strong ETag, or the date of the last change: by it a server refuses to go on with another file
    sha256: str = ""

    def __str__(self) -> str:
        return f"{gigabytes(self.size)}  {self.url}"


class Member(NamedTuple):
    """What an archive holds: a `"file"`, a `"folder"`, or something of another `kind`, which is refused."""

    name: str
    size: int
    kind: str
    open: Callable[[], BinaryIO]


def fetch(
    name: str, root: Path | str, *, accept_terms: bool = False, part: str = "", source: str = ""
) -> Report | None:
    """Fetch a data set into the folder `root`, and `check` it; prints what it does.

    Shows the terms, the sizes and the free disk first, and stops there, with None, unless `accept_terms`. `part` leaves
    out what only other parts need, `source` is one of the origin's `sources`; without it, the first that answers.
    DataError says what cannot be fetched, and how to go on; a second call goes on where the first was cut.
    """
    module, root = reader(name), Path(root)
    if name == "demo":
        raise DataError(DEMO)
    origin, state = module.ORIGIN, root / STATE
    check_choice(("", *origin.parts), error=DataError, part=part)
    check_choice(("", *origin.sources), error=DataError, source=source)
    print(f"{origin.citation}\nterms: {origin.terms}\npage: {origin.page}")
    receipts = intact(state / RECEIPT, read_json, {})  # of what was fetched and unpacked before, by address
    if root.is_dir() and not state.exists() and all(map(Folder(root, origin).has, [part] if part else origin.parts)):
        todo = f"verify it by `python -m iqa_lib.data check {name} {root}`, or give another folder"
        raise DataError(f"{root}: got a folder that holds {name} already, expected none: {todo}")
    wanted = {key: _needed(files, part) for key, files in origin.sources.items() if source in ("", key)}
    if not any(all(file.address in receipts for file in files) for files in wanted.values()):
        chosen, remotes = _answering(origin, wanted, receipts)
        print(f"from {chosen}:", *remotes.values(), sep="\n  ")
        if not _fits(root, remotes.values(), accept_terms):
            return None
        with _alone(state), _room(root):
            for archive, remote in remotes.items():
                receipts[archive.address] = _bring(archive, remote, root)
                write_json(state / RECEIPT, receipts)
                _tidy(state)
    _tidy(state)
    print(f"fetched, see {state / RECEIPT}; now checking")
    return check(name, root)


def by_hand(origin: Origin) -> str:
    """The steps for a data set, or a part of it, that no program can fetch."""
    archives = "\n     ".join(origin.archives)
    return (
        f"by hand:\n  1. open {origin.page}, read the terms, fill in the form if there is one\n  2. download\n"
        f"     {archives}\n  3. unpack into a folder ROOT (.rar: by unrar, 7z or bsdtar), so that it holds\n     "
        + origin.layout.replace("\n", "\n     ")
        + f"\n  4. python -m iqa_lib.data check {origin.name} ROOT"
    )


def gigabytes(size: int | None) -> str:
    """A number of bytes for people."""
    if size is None:
        return "size not known"
    return f"{size / 1e9:,.2f} GB" if size >= 5e6 else f"{size / 1e6:,.2f} MB"


def _needed(files: tuple[Archive, ...], part: str) -> list[Archive]:
    return [file for file in files if not part or file.part in ("", part)]


def _answering(origin: Origin, wanted: dict[str, list[Archive]], receipts: dict) -> tuple[str, dict[Archive, Remote]]:
    """The first source whose addresses all answer, one begun before if there is any, with what is left to fetch."""
    failures = []
    for key in sorted(wanted, key=lambda key: not any(file.address in receipts for file in wanted[key])):
        try:
            remotes = {file: _asked(file.address) for file in wanted[key] if file.address not in receipts}
        except DataError as error:
            failures.append(f"{key}: {error}")
        else:
            print("".join(f"not from {failure}\n" for failure in failures), end="")
            return key, remotes
    none = f"{origin.name}: cannot be fetched by a program: no public address is known"
    no_answer = f"{origin.name}: no address answered; with a network try again:\n" + ";\n".join(failures)
    raise DataError(f"{no_answer if failures else none};\n{by_hand(origin)}")


def _asked(address: str) -> Remote:
    """What the server says about a file, without fetching it."""
    try:
        return _on_server(address) if "://" in address else _on_hub(address)
    except DataError:
        raise
    except Exception as error:  # the hub's client passes on the errors of its HTTP library
        raise DataError(f"{address}: {error}") from error


def _on_server(url: str) -> Remote:
    answer = requests.head(url, allow_redirects=True, timeout=TIMEOUT, headers=PLAIN)
    if answer.status_code in (403, 405, 501):  # a server that does not answer such questions
        answer = requests.get(url, stream=True, timeout=TIMEOUT, headers=PLAIN)
    with closing(answer):
        _refuse_page(answer)
        size, tag = answer.headers.get("Content-Length"), answer.headers.get("ETag", "")
        tag = answer.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        return Remote(url, int(size) if size else None, tag)


def _on_hub(name: str) -> Remote:
    """A file of the hub's data set repository, at the commit that it has now."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    found = get_hf_file_metadata(hf_hub_url(HUB, name, repo_type="dataset"), timeout=TIMEOUT[0])
    hashed = found.etag if len(found.etag or "") == 64 else ""
    return Remote(hf_hub_url(HUB, name, repo_type="dataset", revision=found.commit_hash), found.size, "", hashed)


def _refuse_page(answer: requests.Response) -> None:
    """Raise unless a server sends a file: for an error, and for a web page, as some send for what is gone."""
    answer.raise_for_status()
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        todo = "see whether the official page has another address"
        raise Damaged(f"{answer.url}: got a web page, expected a file: {todo}")


def _fits(root: Path, remotes: Iterable[Remote], accept_terms: bool) -> bool:
    """Print sizes and free disk; whether to go on. DataError if the disk is too small."""
    sizes = [remote.size or 0 for remote in remotes]
    left = sum(sizes) - sum(file.stat().st_size for file in (root / STATE).glob("*.part"))
    needed, free = round(left + UNPACKED * sum(sizes)), _free(root)
    print(f"to fetch: {gigabytes(left)}; with the files about {gigabytes(needed)}; free in {root}: {gigabytes(free)}")
    if not accept_terms:
        print("nothing was fetched: read the terms and the page, then give --accept-terms")
    elif needed > free:
        raise DataError(f"{root}: got {gigabytes(free)} of free disk, expected {gigabytes(needed)}: free some")
    return accept_terms


def _free(root: Path) -> int:
    return shutil.disk_usage(next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())).free


def _bring(archive: Archive, remote: Remote, root: Path) -> dict:
    """Download a file, compare and unpack it; its receipt. What is damaged is deleted."""
    name = Path(urlparse(remote.url).path).name
    part, known = root / STATE / f"{name}.part", root / STATE / f"{name}.json"
    if part.exists() and intact(known, read_json, {}) != asdict(remote):
        print(f"{name}: the server has another file than before: it is fetched anew")
        part.unlink()
    write_json(known, asdict(remote))
    try:
        _download(remote, part, name)
        digest, size = sha256(part), part.stat().st_size
        if remote.sha256 not in ("", digest):
            raise Damaged(f"{remote.url}: got SHA-256 {digest}, expected {remote.sha256}: fetch it again")
        written = _unpack(archive, part, name, root)
    except Damaged:
        part.unlink(missing_ok=True)
        raise
    print(f"{name}: {written}; SHA-256 {digest}")
    return {"url": remote.url, "size": size, "sha256": digest, "tag": remote.tag, "date": str(date.today())}


def _tidy(state: Path) -> None:
    """Remove what a finished file leaves."""
    for file in state.iterdir():
        if file.name not in (RECEIPT, "lock"):
            file.unlink()


def _download(remote: Remote, part: Path, name: str) -> None:
    """Append to `part` what it lacks; tries again as long as something comes, and now and then if nothing does."""
    failures = furthest = 0
    bar = progress(None, name, total=remote.size, unit="B", unit_scale=True)
    with open(part, "ab") as file, closing(bar):
        while remote.size is None or file.tell() < remote.size:
            furthest = max(furthest, file.tell())
            try:
                _stream(remote, file, bar)
                return
            except requests.RequestException as error:
                failures = 0 if file.tell() > furthest else failures + 1
                status = 500 if error.response is None else error.response.status_code
                lasting = status < 500 and status not in (408, 429)
                if failures == TRIES or lasting:
                    kept = f"{gigabytes(file.tell())} are kept, and the same command goes on from there"
                    raise DataError(f"{remote.url}: {error}: {kept}") from error
                time.sleep(PAUSE * 2**failures)


def _stream(remote: Remote, file: BinaryIO, bar: Progress) -> None:
    """Append one answer of the server to `file`, from where that ends; ConnectionError if it still lacks something."""
    start = 0 if remote.size is None else file.tell()
    ranged = {"Range": f"bytes={start}-"} | ({"If-Range": remote.tag} if remote.tag else {}) if start else {}
    with requests.get(remote.url, headers=PLAIN | ranged, stream=True, timeout=TIMEOUT) as answer:
        _refuse_page(answer)
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        begins, total = map(int, told.groups()) if told else (0, int(answer.headers.get("Content-Length", -1)))
        if begins != start or answer.status_code != 206:  # all of the file, or a wrong piece: from the beginning
            file.seek(0)
            file.truncate()
        if begins != file.tell():
            raise requests.ConnectionError(f"got bytes from {begins}, expected them from {start}")
        if remote.size is not None and total not in (-1, remote.size):
            raise Damaged(f"{remote.url}: got {total:,} bytes, expected {remote.size:,}: fetch it again")
        bar.reset(remote.size)
        bar.update(file.tell())
        for piece in answer.iter_content(PIECE):
            file.write(piece)
            file.flush()
            bar.update(len(piece))
    if remote.size is not None and file.tell() > remote.size:
        raise Damaged(f"{remote.url}: got more than {remote.size:,} bytes: fetch it again")
    if remote.size is not None and file.tell() < remote.size:
        raise requests.ConnectionError(f"the answer ended at byte {file.tell():,} of {remote.size:,}")


def _unpack(archive: Archive, path: Path, name: str, root: Path) -> str:
    """Write the files of an archive that are not there yet, each whole or not at all; what was written, in words."""
    base, count, size = _survey(archive, path, name)
    if size > (free := _free(root)):
        raise DataError(f"{root}: got {gigabytes(free)} of free disk, expected {gigabytes(size)}: free some")
    members = _members(path, name)
    for member in progress(members, f"unpacking {name}", total=count, unit="files"):
        if (place := _place(archive, base, member)) is not None:
            _write(member, root / place, root)
    return f"{count:,} files, {gigabytes(size)}"


def _survey(archive: Archive, path: Path, name: str) -> tuple[tuple[str, ...] | None, int, int]:
    """Look through an archive before anything of it is written.

    Returns the folders around what `archive.top` names, None if nothing of that is there, and the number and bytes of
    all files. DataError for a name that leads out of the folder, and for a link, a device or a password.
    """
    bases, count, size = {}, 0, 0
    for member in progress(_members(path, name), f"looking through {name}", unit="files"):
        parts = _parts(member)
        if member.kind not in ("file", "folder") or parts is None:
            expected = "files and folders inside the archive: nothing was written"
            raise Damaged(f"{name}: got {member.name!r}, a {member.kind}, expected {expected}")
        count, size = count + (member.kind == "file"), size + member.size
        lower = [part.lower() for part in parts]
        for top in archive.top:
            if top.lower() in lower:
                bases.setdefault(top, set()).add(parts[: lower.index(top.lower())])
    first = next((bases[top] for top in archive.top if top in bases), None)
    return first and min(first, key=len), count, size


def _members(path: Path, name: str) -> Iterator[Member]:
    """What an archive holds, in its order, or the one file that is none; `Damaged` if it cannot be read."""
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as file:
                for info in file.infolist():
                    regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                    kind = "folder" if info.is_dir() else "file" if regular else "link or device"
                    kind = "file with a password" if info.flag_bits & 1 else kind
                    yield Member(info.filename, info.file_size, kind, partial(file.open, info))
        elif name.endswith(ARCHIVES):
            with tarfile.open(path) as file:
                for info in file:
                    kind = "folder" if info.isdir() else "file" if info.isreg() else "link or device"
                    yield Member(info.name, info.size, kind, partial(file.extractfile, info))
        else:
            yield Member(name, path.stat().st_size, "file", partial(open, path, "rb"))
    except DAMAGE as error:
        with open(path, "rb") as file:
            begins = file.read(40)
        raise Damaged(f"{name}: is damaged or no archive ({error}), begins with {begins!r}: fetch it again") from error


def _parts(member: Member) -> tuple[str, ...] | None:
    """The folders and the name of a member; None if it leads out of the archive's folder, on whichever system."""
    path = PureWindowsPath(member.name)
    return None if path.anchor or ".." in path.parts else path.parts


def _place(archive: Archive, base: tuple[str, ...] | None, member: Member) -> Path | None:
    """Where a member belongs in the data set's folder; None if it does not: folders, and what lies outside `base`."""
    parts = _parts(member)
    if member.kind == "folder" or not parts or parts[0] == "__MACOSX" or parts[-1].startswith("._"):
        return None
    if archive.flat or base is None:
        return Path(archive.into, *(parts[-1:] if archive.flat else parts))
    return Path(*parts[len(base) :]) if parts[: len(base)] == base else None


def _write(member: Member, path: Path, root: Path) -> None:
    """Write a member, unless a killed process has; a file of another size is in the way, and stays."""
    if path.is_file() and path.stat().st_size == member.size:
        return
    if path.exists():
        raise DataError(f"{path}: got another file of this name, expected none: move it away")
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path.parent}: got a link out of {root}, expected a folder in it: remove the link")
    temporary = root / STATE / "member"
    with member.open() as source, open(temporary, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, path)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """A block that one process at a time enters; DataError for the others."""
    state.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(state / "lock", timeout=0):
            yield
    except Timeout as error:
        raise DataError(f"{state.parent}: another process fetches into it: wait for it") from error


@contextmanager
def _room(root: Path) -> Iterator[None]:
    """A block in which a full disk is a DataError that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"{root}: the disk is full: free some; the same command goes on from there") from error
