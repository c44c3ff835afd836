"""The folder of a run, `outputs/<scale>/<notebook>/<row>/seed<k>`: the one module that knows where it is and its files.

Imports no torch, and pandas only to read predictions.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from iqa_lib.files import repo_root

if TYPE_CHECKING:
    import pandas as pd

RECORD = "run.json"  # written last: a run that has it is finished
NOTEBOOK = "run.ipynb"
WEIGHTS = "model.safetensors"
PREDICTIONS = "predictions.csv"
FIGURES = "figures"
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
    """A run's record, and its `folder`; ValueError if the folder holds none, or a damaged one."""
    file = located(run_folder) / RECORD
    if not file.is_file():
        wanted = folder("<scale>", "<notebook>/<row>", "<k>")
        raise ValueError(f"{run_folder} holds no {RECORD}, expected the folder of a finished run, {wanted}")
    try:
        return json.loads(file.read_text()) | {"folder": file.parent}
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): run the row again") from error


def read_all(scale: str, run: str, seed: int | str = "*") -> list[dict]:
    """The records of the finished runs that match; of a row, one a seed."""
    return [read(each) for each in finished(scale, run, seed)]


def predictions(run_folder: Path | str, side: str = "") -> "pd.DataFrame":
    """A run's predictions; if they have a column `side`, those of one side."""
    import pandas as pd

    table = pd.read_csv(located(run_folder) / PREDICTIONS)
    return table[table.side == side].reset_index(drop=True) if side and "side" in table else table


def has_network(run_folder: Path) -> bool:
    """Whether a run kept the weights of a network."""
    return (run_folder / WEIGHTS).is_file()


def figures(run_folder: Path) -> dict[str, Path]:
    """A run's figures by name."""
    return {file.stem: file for file in sorted((run_folder / FIGURES).glob("*.png"))}


def failure(scale: str, run: str) -> str:
    """Why a run of any seed failed, in a line; empty if none did."""
    files = sorted(_root().glob(str(folder(scale, run, "*") / FAILED)))
    return files[-1].read_text().strip() if files else ""


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
