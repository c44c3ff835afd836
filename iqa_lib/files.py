"""Folders, hashes, and files that are written whole and checked when they are read.

A killed run never leaves half a file (`atomic`). JSON and tensors carry a checksum (`write_json`, `save_tensors`);
reading a file that is not as it was written raises DamagedError, or has it made anew if it is only kept (`intact`).
"""

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

SUM = "checksum"
"""The key of the checksum in JSON, and in the metadata of safetensors."""

_UMASK = os.umask(0)
os.umask(_UMASK)


def repo_root() -> Path:
    """The checkout with `notebooks/`, `params/` and `outputs/`; RuntimeError if `iqa_lib` is installed without it."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "notebooks").is_dir():
        raise RuntimeError(f"no notebooks/ in {root}: clone the repository and run `pip install -e .` in it")
    return root


def cache_dir() -> Path:
    """Folder for what can be computed again: `$IQA_LIB_CACHE`, else `~/.cache/iqa_lib`; OSError if there is no home."""
    try:
        return Path(os.environ.get("IQA_LIB_CACHE") or Path.home() / ".cache" / "iqa_lib")
    except RuntimeError as error:
        raise OSError(f"{error}: set IQA_LIB_CACHE to a folder for images and features") from error


class DamagedError(ValueError):
    """A file that this package wrote is not as it was written; the message names it."""


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it is renamed to `path` only after the block has succeeded."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror}): {_elsewhere(path)}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock `path`, and hold it; OSError where it cannot be made. What is complete is read without."""
    from filelock import FileLock

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise OSError(f"{path} cannot be locked ({error.strerror}): {_elsewhere(path)}") from error
    try:
        yield
    finally:
        lock.release()


def _elsewhere(path: Path) -> str:
    place = "set IQA_LIB_CACHE to" if path.is_relative_to(cache_dir()) else "work in"
    return f"{place} a folder that you may write, on a file system with locks"


def read_table(file: Path | str, **options) -> "DataFrame":
    """A table of CSV with every number as it was written, which pandas before 3.1 rounds to be quicker."""
    import pandas as pd

    exact = {"float_precision": "round_trip"} if pd.__version__ < "3.1" else {}
    return pd.read_csv(file, **exact, **options)


def write_json(path: Path | str, content: Mapping[str, object]) -> None:
    """Write a dictionary that `read_json` can check."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({**content, SUM: _of_json(content)}, indent=1), encoding="utf-8")


def read_json(path: Path | str, *, unmarked: bool = False) -> dict:
    """What `write_json` wrote; DamagedError if it is not, `unmarked` accepts a file without a checksum, too."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({error})") from error
    if not isinstance(content, dict) or not (unmarked or SUM in content):
        raise DamagedError(f"{path} is damaged (it has no checksum)")
    if SUM in content and content.pop(SUM) != _of_json(content):
        raise DamagedError(f"{path} is damaged, or was edited (its checksum is another)")
    return content


def _of_json(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def save_tensors(path: Path | str, tensors: Mapping[str, "Tensor"]) -> None:
    """Write tensors on the CPU as safetensors that `load_tensors` can check."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file(dict(tensors), temporary, {SUM: _of_tensors(tensors)})


def load_tensors(path: Path | str) -> dict[str, "Tensor"]:
    """What `save_tensors` wrote, mapped from the file; DamagedError if it is not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors, marked = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(f"{path} is damaged ({error})") from error
    if marked.get(SUM) != _of_tensors(tensors):
        raise DamagedError(f"{path} is damaged (its checksum is another, or missing)")
    return tensors


def _of_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """CRC-32 of names, types, shapes and, at the speed of memory, of the sums of the 8-byte words of each 4 KB."""
    import torch

    digest = 0
    for name, tensor in sorted(tensors.items()):
        digest = zlib.crc32(repr((name, tensor.dtype, tensor.shape)).encode(), digest)
        data = tensor.contiguous().flatten().view(torch.uint8).numpy()
        whole = len(data) // 4096 * 4096
        digest = zlib.crc32(data[:whole].view("u8").reshape(whole // 4096, 512).sum(1), digest)
        digest = zlib.crc32(data[whole:], digest)
    return f"{digest:08x}"


Content = TypeVar("Content")


def intact(path: Path, read: Callable[[Path], Content], nothing: Content) -> Content:
    """What `read` finds in a file that can be made again, else `nothing`; a damaged one is removed, with a line."""
    try:
        return read(path) if path.exists() else nothing
    except DamagedError as error:
        print(f"{error}: it is made anew")
        with suppress(OSError):
            path.unlink()
        return nothing


def sha256(*paths: Path | str) -> str:
    """SHA-256 of the files' contents, one after another, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def sha256_once(path: Path) -> str:
    """As `sha256`, of one file, computed once a process as long as its size and time stay."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: Path, _size: int, _changed: int) -> str:
    return sha256(path)


def file_key(path: Path) -> str:
    """A name for what is computed from a file and kept; it changes with the file's path, size or time."""
    status, full = path.stat(), path if path.is_absolute() else os.path.join(os.getcwd(), path)
    folder, name = os.path.split(full)
    is_link, real = os.path.islink(path), _real_folder(folder, os.stat(folder).st_ino)
    place = os.path.realpath(path) if is_link else os.path.join(real, name)
    return hashlib.sha256(f"{place}{status.st_size}{status.st_mtime_ns}".encode()).hexdigest()[:24]


@cache
def _real_folder(folder: str, _inode: int) -> str:
    """A folder without symbolic links, looked up once: a data set's half a million images are in few."""
    return os.path.realpath(folder)


def tensors_sha256(tensors: Iterable[tuple[str, "Tensor"]]) -> str:
    """SHA-256 of named tensors: names and bits, in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def code_fingerprint() -> str:
    """SHA-256 of the package's source: a finished training step is reused only under the same code."""
    return sha256(*sorted(Path(__file__).parent.rglob("*.py")))
