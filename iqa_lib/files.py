"""Folders, hashes, and atomic writes: a killed run never leaves half a file."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_UMASK = os.umask(0)
os.umask(_UMASK)


def repo_root() -> Path:
    """The checkout with `notebooks/`, `params/` and `outputs/`; RuntimeError if `iqa_lib` is installed without it."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "notebooks").is_dir():
        raise RuntimeError(f"no notebooks/ in {root}: clone the repository and run `pip install -e .` in it")
    return root


def cache_dir() -> Path:
    """The folder of what can be made again: `$IQA_LIB_CACHE`, else `~/.cache/iqa_lib`. OSError if it cannot be made."""
    try:
        folder = Path(os.environ.get("IQA_LIB_CACHE") or Path.home() / ".cache" / "iqa_lib")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # there is no home, or it is read-only
        raise OSError(f"no cache folder ({error}): set IQA_LIB_CACHE to a folder that can be written") from error
    return folder


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it is renamed to `path` only after the block has succeeded."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(*paths: Path | str) -> str:
    """SHA-256 of the files' contents, one after another, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def file_key(path: Path) -> str:
    """A name for what is computed from a file and kept; it changes with the file's path, size or time."""
    status = path.stat()
    return hashlib.sha256(f"{path.resolve()}{status.st_size}{status.st_mtime_ns}".encode()).hexdigest()[:24]


def tensors_sha256(tensors: Iterable[tuple[str, "Tensor"]]) -> str:
    """SHA-256 of named tensors: names and bits, in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def code_fingerprint() -> str:
    """SHA-256 of the package's source: a finished training step is reused only under the same code."""
    return sha256(*sorted(Path(__file__).parent.rglob("*.py")))
