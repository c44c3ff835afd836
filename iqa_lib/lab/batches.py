"""Many images: pairs and triplets from folders and CSV files, and a table of their scores. Imports no torch."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from iqa_lib.files import atomic
from iqa_lib.progress import progress

if TYPE_CHECKING:
    from iqa_lib.lab.scoring import Metric

PAIR, TRIPLET = ["reference", "distorted"], ["reference", "a", "b"]
"""The columns of a table of pairs and of one of triplets."""


def pairs_of_folders(reference: Path | str, distorted: Path | str) -> pd.DataFrame:
    """Each image of a folder beside the one of the same name, whatever its ending, in the other, or beside one file.

    Images without a partner, or two of one name, raise a ValueError that lists them.
    """
    reference, found = Path(reference), _images(Path(distorted))
    partners = dict.fromkeys(found, reference) if reference.is_file() else _images(reference)
    if alone := sorted(str((found | partners)[name]) for name in found.keys() ^ partners.keys()):
        raise ValueError(
            f"{len(alone)} of {len(found) + len(partners)} images have no partner of the same name in the other "
            f"folder: {_some(alone)}; rename them, or list the pairs in a CSV with columns reference,distorted"
        )
    return pd.DataFrame([(str(partners[name]), str(path)) for name, path in found.items()], columns=PAIR)


def pairs_of_csv(file: Path | str) -> pd.DataFrame:
    """A CSV with columns `reference,distorted`, or `reference,a,b` for triplets; paths are relative to its folder.

    What is not a CSV, or lacks columns or cells, raises a ValueError that names them; a missing one FileNotFoundError.
    """
    file = Path(file)
    try:
        table = pd.read_csv(file, dtype=str, encoding="utf-8-sig", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a readable CSV ({error}): save it as CSV, UTF-8, with commas") from error
    columns = next((columns for columns in (PAIR, TRIPLET) if set(columns) <= set(table.columns)), None)
    if columns is None:
        raise ValueError(
            f"{file} has the columns {', '.join(table.columns)}, expected reference,distorted or reference,a,b: rename "
            "them in the first line, and separate them by commas"
        )
    if table.empty:
        raise ValueError(f"{file} has no row below its header: list one pair a line")
    if (gaps := table[columns].isna()).any(axis=None):
        row, column = np.argwhere(gaps.to_numpy())[0]
        raise ValueError(f"{file}: row {row + 2} has nothing under {columns[column]}: fill it in, or delete the row")
    return table[columns].map(lambda path: str(file.parent / path.strip()))


def score_table(pairs: pd.DataFrame, metric: "Metric") -> Iterator[dict]:
    """Scores of many pairs, or preferences of many triplets, row by row, by a metric of `iqa_lib.lab.scoring.load`.

    Each row gets `score` or `p_b`; `metric`; `better`, its direction; `origin`, the code and weights behind it; and
    `error`: empty, or why this row has NaN instead of a number. A broken image costs no other row.
    """
    columns, result, ask = (TRIPLET, "p_b", metric.prefer) if "b" in pairs else (PAIR, "score", metric.score)
    better = "closer to 1: B" if "b" in pairs else "higher" if metric.higher_is_better else "lower"
    for row in progress(pairs[columns].to_dict("records"), f"scoring by {metric.name}"):
        value, error = math.nan, ""
        try:
            value = float(ask(*row.values()))
        except (ValueError, OSError, RuntimeError) as problem:
            error = str(problem)
        yield row | {result: value, "metric": metric.name, "better": better, "origin": metric.origin, "error": error}


def write_table(rows: Sequence[dict], file: Path | str) -> None:
    """Write the rows of `score_table` as a CSV, paths relative to its folder, so that it can be read again as pairs."""
    folder, paths = Path(file).resolve().parent, TRIPLET if "b" in rows[0] else PAIR
    table = pd.DataFrame(rows)
    table[paths] = table[paths].map(lambda path: os.path.relpath(Path(path).resolve(), folder))
    with atomic(file) as temporary:
        table.to_csv(temporary, index=False)


def _images(folder: Path) -> dict[str, Path]:
    """A folder's images by name without ending, sorted."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder (from {Path.cwd()}): check the path")
    if not (files := files_of(folder, images=True)):
        raise ValueError(f"{folder} holds no image: give a folder with files such as name.png or name.jpg")
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        twice = [str(path) for path in files if found[path.stem] != path]
        raise ValueError(f"{folder} holds two images of one name: {_some(twice)}; move one, or list pairs in a CSV")
    return found


def files_of(folder: Path | str, images: bool) -> list[Path]:
    """A folder's files, except hidden ones, that are images by their endings, or those that are not; sorted."""
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = (path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if (path.suffix.lower() in endings) == images)


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
