"""The folder of a run, `outputs/<scale>/<notebook>/<row>/seed<k>`: the one module that knows where it is and its files.

Imports no torch, and pandas only to read predictions.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from iqa_lib.files import DamagedError, read_json, read_table, repo_root, sha256_once

if TYPE_CHECKING:
    import pandas as pd

RECORD = "run.json"  # written last: a run that has it is finished
KEYS = ("parameters", "metrics", "data", "weights", "device", "seconds", "peak_memory_bytes", "commit", "dirty")
MAPPINGS = ("parameters", "metrics", "data", "weights", "files")
NOTEBOOK = "run.ipynb"
WEIGHTS = "model.safetensors"
PREDICTIONS = "predictions.csv"
FIGURES = "figures"
DATA = "IQA_LIB_DATA"  # the environment variable that names the folder of the data sets; without it, `data/`
AGAIN = f"delete its {RECORD} and run the row again"
FAILED = "failed.txt"
PROGRESS = "progress.json"  # only while it runs: its name, step, steps and a note, see `iqa_lib.progress`


def folder(scale: str, run: str, seed: int | str) -> Path:
    """A run's folder, relative to the repository; `run` is `<notebook>/<row>`. Takes patterns, too."""
    return Path("outputs", scale, run, f"seed{seed}")


def finished(scale: str = "*", run: str = "*/*", seed: int | str = "*") -> list[Path]:
    """Folders of the finished runs that match, sorted."""
    return sorted(file.parent for file in _root().glob(str(folder(scale, run, seed) / RECORD)))


def located(named: Path | str) -> Path:
    """A path as named from here or, if there is no such folder, from the repository, as notebooks print it."""
    here, from_root = Path(named), _root() / named
    return from_root if from_root.is_dir() and not here.is_dir() else here


def read(run_folder: Path | str) -> dict:
    """A run's record, and its `folder`; ValueError if the folder holds none, or a damaged one.

    A record of older code has neither a checksum nor the hashes of the other files (`files`), and is taken as it is.
    """
    file = located(run_folder) / RECORD
    if not file.is_file():
        wanted = folder("<scale>", "<notebook>/<row>", "<k>")
        raise ValueError(f"{run_folder} holds no {RECORD}, expected the folder of a finished run, {wanted}")
    try:
        record = read_json(file, unmarked=True)
    except DamagedError as error:
        raise DamagedError(f"{error}: {AGAIN}") from error
    if lacking := [key for key in KEYS if key not in record]:
        raise DamagedError(f"{file} lacks {', '.join(lacking)}: {AGAIN}")
    if wrong := [key for key in MAPPINGS if not isinstance(record.get(key, {}), dict)]:
        raise DamagedError(f"{file} is damaged ({', '.join(wrong)} of another kind): {AGAIN}")
    return record | {"folder": file.parent}


def checked(record: dict, name: str) -> Path:
    """A file of a run, such as `WEIGHTS`; DamagedError if it is missing, or is not the one that the record is about."""
    file, expected = record["folder"] / name, record.get("files", {}).get(name)
    if not file.is_file():
        raise DamagedError(f"{file} is missing: {AGAIN}, or copy the file too")
    if expected is None and name == WEIGHTS:
        raise DamagedError(f"{file} has no hash in its record, which older code wrote: {AGAIN}")
    if expected and sha256_once(file) != expected:
        raise DamagedError(f"{file} is damaged, or not of the run that its record is about: {AGAIN}")
    return file


def read_all(scale: str, run: str, seed: int | str = "*") -> list[dict]:
    """The records of the finished runs that match, of a row one a seed, but for those in `damaged`."""
    found = []
    for each in finished(scale, run, seed):
        with suppress(DamagedError):
            found.append(_read_whole(each))
    return found


def damaged(scale: str, run: str) -> list[str]:
    """Of the finished runs that match, those that cannot be used, each in a line that says why."""
    found = []
    for each in finished(scale, run):
        try:
            _read_whole(each)
        except DamagedError as error:
            found.append(str(error).replace(f"{_root()}{os.sep}", ""))
    return found


def _read_whole(run_folder: Path) -> dict:
    record = read(run_folder)
    checked(record, PREDICTIONS)
    return record


def predictions(run_folder: Path | str, side: str = "") -> "pd.DataFrame":
    """A run's predictions; if they have a column `side`, those of one side."""
    table = read_table(located(run_folder) / PREDICTIONS)
    return table[table.side == side].reset_index(drop=True) if side and "side" in table else table


def commit(record: dict) -> str:
    """The commit that a run was made at, such as `"0123abcd dirty"`, or `"unknown: "` and the reason."""
    made_at = record["commit"] or "unknown"
    return made_at if made_at.startswith("unknown") else made_at[:8] + " dirty" * bool(record["dirty"])


def has_network(run_folder: Path) -> bool:
    """Whether a run kept the weights of a network."""
    return (run_folder / WEIGHTS).is_file()


def figures(run_folder: Path) -> dict[str, Path]:
    """A run's figures by name."""
    return {file.stem: file for file in sorted((run_folder / FIGURES).glob("*.png"))}


def failure(scale: str, run: str) -> str:
    """Why a run of any seed failed, in a line; empty if none did."""
    files = sorted(_root().glob(str(folder(scale, run, "*") / FAILED)))
    return files[-1].read_text(encoding="utf-8").strip() if files else ""


def is_demo(record: dict) -> bool:
    """Whether a run saw the demo set, which makes every number of its network a demo number."""
    return any(side["name"] == "demo" for side in record["data"].values())


def _root() -> Path:
    """The repository, or the current folder if the package is installed without it."""
    try:
        return repo_root()
    except RuntimeError:
        return Path()


if __name__ == "__main__":
    from iqa_lib.lab import kept

    raise SystemExit(kept.main())
