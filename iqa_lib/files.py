"""Where things lie, and writing them so that a killed run never leaves half a file."""

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
    """The checkout that holds `notebooks/`, `params/` and `outputs/`: every path of a run starts here.

    Raises:
        RuntimeError: `iqa_lib` was installed as a copy, away from its repository.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "notebooks").is_dir():
        raise RuntimeError(
            f"iqa_lib is installed in {root}, which holds no notebooks/: clone the repository and run "
            "`pip install -e .` in it"
        )
    return root


def cache_dir() -> Path:
    """Folder for what is made once and can be made again: `$IQA_LIB_CACHE`, else `~/.cache/iqa_lib`."""
    folder = os.environ.get("IQA_LIB_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "iqa_lib"


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name `path` only once the block has ended well."""
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
    """A name for what is computed from a file and kept: it changes with the file's place, size or time."""
    status = path.stat()
    return hashlib.sha256(f"{path.resolve()}{status.st_size}{status.st_mtime_ns}".encode()).hexdigest()[:24]


def tensors_sha256(tensors: Iterable[tuple[str, "Tensor"]]) -> str:
    """SHA-256 of named tensors: names and bits, in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def code_fingerprint() -> str:
    """SHA-256 of the package's own source: a finished training step is taken up again only under the same code."""
    return sha256(*sorted(Path(__file__).parent.rglob("*.py")))
