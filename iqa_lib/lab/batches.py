"""Many images: pairs and triplets from folders and CSV files, and the table of their scores. Imports no torch.

A pair is a dict of a table's cells: of its images' paths under `PAIR` or `TRIPLET`, and of whatever else an input CSV
has. The table holds all of these, a column for each metric, and `ADDED`; it is on disk as far as it is scored.
"""

import csv
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from PIL import Image

from iqa_lib.files import atomic
from iqa_lib.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

    from iqa_lib.lab.scoring import Metric

PAIR, TRIPLET = ["reference", "distorted"], ["reference", "a", "b"]
"""The columns of the images in a table of pairs and in one of triplets."""
ADDED = ["error", "warning", "meaning"]
"""The last columns of a table of ours: why a score is missing, what the decoder remarked, what the scores mean."""


def image_columns(pair: dict[str, str]) -> list[str]:
    return PAIR if "distorted" in pair else TRIPLET


# What is to be scored


def pairs_of_folders(reference: Path | str, distorted: Path | str, recursive: bool = False) -> list[dict[str, str]]:
    """Each image of a folder beside the one of the same name, whatever its ending, in the other, or beside one file.

    If no two names are equal, one reference serves all images whose names begin with its own (I01.png and
    I01_02_3.bmp). Images without a partner, or two of one name, raise a ValueError that lists them.
    """
    reference, found = Path(reference), _images(Path(distorted), recursive)
    if reference.is_file():
        return [_pair(reference, path) for path in found.values()]
    references = _images(reference, recursive)
    partners = {name: name for name in found if name in references} or _by_beginning(references, found)
    used = set(partners.values())
    alone = [str(path) for name, path in found.items() if name not in partners]
    alone += [str(path) for name, path in references.items() if name not in used]
    if alone:
        raise ValueError(
            f"{len(alone)} of {len(found) + len(references)} images have no partner of the same name, or of a name "
            f"that begins with it, in the other folder: {_some(sorted(alone))}; rename them, or list the pairs in a "
            "CSV with columns reference,distorted"
        )
    return [_pair(references[partners[name]], path) for name, path in found.items()]


def _pair(reference: Path, distorted: Path) -> dict[str, str]:
    return {"reference": str(reference), "distorted": str(distorted)}


def _by_beginning(references: dict[str, Path], found: dict[str, Path]) -> dict[str, str]:
    """The longest reference's name that each name begins with, before a sign that is no letter or digit."""
    lower = {name.lower(): name for name in references}
    partners = {}
    for name in found:
        ends = (end for end in range(len(name) - 1, 0, -1) if not name[end].isalnum())
        if match := next((lower[name[:end].lower()] for end in ends if name[:end].lower() in lower), None):
            partners[name] = match
    return partners


def pairs_of_csv(file: Path | str) -> list[dict[str, str]]:
    """The rows of a CSV with columns `reference,distorted`, or `reference,a,b`; paths are relative to its folder.

    What is not a CSV, or has rows of another length, no such columns or empty cells in them, raises a ValueError that
    names the line; a missing one FileNotFoundError.
    """
    file = Path(file)
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, skipinitialspace=True, strict=True)
            header, *rows = [(reader.line_num, cells) for cells in reader if any(cells)] or [(1, [])]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a readable CSV ({error}): save it as CSV, UTF-8, with commas") from error
    names = [name.strip() for name in header[1]]
    columns = next((columns for columns in (PAIR, TRIPLET) if set(columns) <= set(names)), None)
    if columns is None or len(set(names)) < len(names):
        raise ValueError(
            f"{file} has the columns {', '.join(names) or '(none)'}, expected reference,distorted or reference,a,b, "
            "and any others, each once: name them in the first line, and separate them by commas"
        )
    if not rows:
        raise ValueError(f"{file} has no row below its header: list one pair a line")
    for line, cells in rows:
        if len(cells) != len(names):
            todo = "put cells that hold a comma into quotes, and keep the commas of empty ones"
            raise ValueError(f"{file}: row {line} has {len(cells)} cells, expected {len(names)} as in line 1: {todo}")
        if gap := next((name for name, cell in zip(names, cells, strict=True) if name in columns and not cell), None):
            raise ValueError(f"{file}: row {line} has nothing under {gap}: fill it in, or delete the row")
    pairs = (dict(zip(names, cells, strict=True)) for _, cells in rows)
    return [pair | {name: str(file.parent / pair[name].strip()) for name in columns} for pair in pairs]


def left_out(folder: Path | str, recursive: bool) -> str:
    """What a folder holds beside the images that are scored, in a line; empty if nothing."""
    hidden, foreign, folders, linked = 0, [], 0, 0
    for path in sorted(Path(folder).rglob("*") if recursive else Path(folder).iterdir()):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            hidden += path.is_file()
        elif path.is_dir():
            folders += not recursive
            linked += recursive and path.is_symlink()
        elif not _is_image(path):
            foreign.append(path.name)
    told = [f"{hidden} hidden"] * bool(hidden)
    told += [f"{len(foreign)} not images by their endings: {_some(foreign)}"] * bool(foreign)
    told += [f"{folders} subfolder{'s' * (folders > 1)}, which --recursive takes"] * bool(folders)
    told += [f"{linked} link{'s' * (linked > 1)} to folders"] * bool(linked)
    return f"left out of {folder}: {'; '.join(told)}" if told else ""


def _images(folder: Path, recursive: bool) -> dict[str, Path]:
    """A folder's images by their place in it without ending, sorted."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder (from {Path.cwd()}): check the path")
    inside = folder.rglob("*") if recursive else folder.iterdir()
    shown = (path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not (files := sorted(path for path in shown if _is_image(path) and (path.is_file() or path.is_symlink()))):
        raise ValueError(f"{folder} holds no image: give a folder with files such as name.png or name.jpg")
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
    if len(found) < len(files):
        twice = [str(path) for path in files if path not in found.values()]
        raise ValueError(f"{folder} holds two images of one name: {_some(twice)}; move one, or list pairs in a CSV")
    return found


def _is_image(path: Path) -> bool:
    return Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


# Their scores


def score_rows(pairs: Sequence[dict[str, str]], metrics: Sequence["Metric"], first: int = 0) -> Iterator[dict]:
    """The scores of many pairs, or preferences of many triplets, from the pair number `first` on, row by row.

    A row holds under each metric's name its score, or "" for none; under `error` why, and under `warning` what the
    decoder remarked. Each image is read once for all metrics. Whatever goes wrong with a pair costs its own row only.
    """
    from iqa_lib.lab.scoring import check_sizes

    limits = [metric.max_pixels for metric in metrics]
    read = partial(_read, max_pixels=None if None in limits else max(limits))
    read_reference = lru_cache(maxsize=1)(read)
    bar = progress(pairs[first:], "scoring", initial=first, total=len(pairs))
    for pair in bar:
        row, errors, remarks = dict.fromkeys((metric.name for metric in metrics), ""), [], []
        files, images = {name: pair[name] for name in image_columns(pair)}, []
        try:
            for name, path in files.items():
                image, remark = (read_reference if name == "reference" else read)(path, name)
                images.append(image)
                remarks += remark
            check_sizes(files, images)
        except Exception as error:  # decoders raise of all kinds
            errors.append(_told(error))
        else:
            for metric in metrics:
                try:
                    row[metric.name] = (metric.prefer if len(images) > 2 else metric.score)(*images)
                except Exception as error:  # an image too large for the memory costs no other either
                    errors.append(_told(error))
        yield row | {"error": "; ".join(errors), "warning": "; ".join(remarks)}


def _read(path: str, name: str, max_pixels: int | None) -> tuple["Tensor", list[str]]:
    """An image, and what was remarked on when it was read."""
    from iqa_lib.images import as_image

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = as_image(path, name, max_pixels)
    return image, list(dict.fromkeys(_line(warning.message) for warning in caught))


def _told(error: Exception) -> str:
    known = isinstance(error, ValueError | OSError | RuntimeError) and str(error)
    return _line(error if known else f"{type(error).__name__}: {error}")


def _line(text: object) -> str:
    return " ".join(str(text).split())


# The table on disk


class Table:
    """A table of the scores of `pairs` by `metrics`, to be written to a file, or to a stream with the paths as given.

    Columns of the input that have the name of one of ours raise ValueError, except for `ADDED` in a table of ours, of
    which `meaning` goes on.
    """

    def __init__(self, pairs: Sequence[dict[str, str]], metrics: Sequence["Metric"], file: Path | None = None):
        names, given = [metric.name for metric in metrics], list(pairs[0])
        kept = [name for name in given if name not in ADDED] if given[-len(ADDED) :] == ADDED else given
        if taken := sorted({name for name in (*names, *ADDED) if name in kept}):
            raise ValueError(f"the input has columns that the scores need: {', '.join(taken)}; rename or delete them")
        if len(set(names)) < len(names):
            raise ValueError(f"metrics: got {', '.join(names)}, expected each once: score runs of one network in turn")
        self.pairs, self.file, self.columns = pairs, file, [*kept, *names, *ADDED]
        meanings = "; ".join(metric.meaning for metric in metrics)
        self._given = []  # the cells that the input gives, of each row
        for pair in pairs:
            before = [pair["meaning"]] if kept != given and pair["meaning"] else []
            cells = {name: pair[name] for name in kept} | {"meaning": "; ".join([*before, meanings])}
            if file:
                cells |= {name: _relative(pair[name], file.parent) for name in image_columns(pair)}
            self._given.append({name: _printable(cell) for name, cell in cells.items()})

    def finished(self) -> list[dict[str, str]]:
        """The finished rows in the file; what a kill left of one is left out.

        A file that holds other pairs, or scores by other metrics or weights, raises ValueError, as does an image that
        has changed since.
        """
        if not self.file.exists() or not self.file.stat().st_size:
            return []
        text = self.file.read_text(encoding="utf-8", errors="replace")
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if rows and (not text.endswith("\n") or len(rows[-1]) < len(header)):
            rows.pop()
        todo = f"give another --csv, or delete {self.file}"
        whole = all(len(row) == len(header) for row in rows)
        if header != self.columns or len(rows) > len(self.pairs) or not whole:
            got = f"{len(rows)} rows of {', '.join(header)}"
            expected = f"at most {len(self.pairs)} of {', '.join(self.columns)}"
            raise ValueError(f"{self.file} holds {got}, expected {expected}: {todo}")
        found = [dict(zip(header, row, strict=True)) for row in rows]
        for line, (row, given, pair) in enumerate(zip(found, self._given, self.pairs, strict=False), 2):
            if other := next((name for name in given if row[name] != given[name]), None):
                raise ValueError(f"{self.file}: row {line} has {row[other]}, expected {given[other]}: {todo}")
            for name in () if row["error"] else image_columns(pair):
                if os.path.exists(pair[name]) and _touched(pair[name]) > self.file.stat().st_mtime:
                    raise ValueError(f"{pair[name]} has changed since {self.file} was written: {todo}")
        return found

    def renewed(self, rows: Sequence[dict[str, str]], metrics: Sequence["Metric"]) -> list[dict]:
        """Finished rows, those of them that failed scored again."""
        return [
            self._row(next(score_rows([self.pairs[number]], metrics)), number) if row["error"] else row
            for number, row in enumerate(rows)
        ]

    def begin(self, rows: Sequence[dict[str, str]]) -> None:
        """Make the file of these finished rows."""
        with atomic(self.file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
            self._writer(out, header=True).writerows(rows)

    def append(self, rows: Iterator[dict], first: int = 0) -> Iterator[dict]:
        """Write each row of `score_rows`, which began at pair `first`, as soon as it is there, and pass it on."""
        with open(self.file, "a", encoding="utf-8", newline="") as out:
            yield from self.write(out, rows, first, header=False)

    def write(self, out: TextIO, rows: Iterator[dict], first: int = 0, *, header: bool = True) -> Iterator[dict]:
        writer = self._writer(out, header)
        for number, row in enumerate(rows, first):
            row = self._row(row, number)
            writer.writerow(row)
            out.flush()
            yield row

    def _row(self, row: dict, number: int) -> dict:
        return {name: _printable(cell) for name, cell in row.items()} | self._given[number]

    def _writer(self, out: TextIO, header: bool) -> csv.DictWriter:
        writer = csv.DictWriter(out, self.columns, lineterminator="\n")
        if header:
            writer.writeheader()
        return writer


def check_target(file: Path, sources: Sequence[str], resume: bool) -> None:
    """Raise ValueError if a table written to `file` would destroy something: anything but nothing or, to go on, ours.

    `sources` are the files and folders of the input.
    """
    todo = "give a new name that ends in .csv"
    if file.suffix.lower() != ".csv":
        raise ValueError(f"--csv: got {file}, expected a CSV file: {todo}")
    if file.is_symlink() or file.is_dir():
        raise ValueError(f"--csv: got {file}, a {'link' if file.is_symlink() else 'folder'}, expected a file: {todo}")
    if not file.exists() or not file.stat().st_size:
        return
    if any(os.path.exists(source) and os.path.samefile(source, file) for source in sources):
        raise ValueError(f"--csv: got {file}, the input itself, which is left as it is: {todo}")
    with open(file, encoding="utf-8", errors="replace", newline="") as lines:
        if next(csv.reader(lines), [])[-len(ADDED) :] != ADDED:
            raise ValueError(f"--csv: got {file}, which is there and no table of scores: {todo}")
    if not resume:
        raise ValueError(f"--csv: got {file}, which holds scores: add --resume to go on with it, or {todo}")


def _touched(path: str) -> float:
    """When a file was written or, with an older date of its own, put in this place."""
    return max(os.path.getmtime(path), os.path.getctime(path))


def _relative(path: str, folder: Path) -> str:
    """A path from a table's folder; a link keeps its own name."""
    parent, name = os.path.split(path)
    return os.path.relpath(os.path.join(os.path.realpath(parent), name), os.path.realpath(folder))


def _printable(cell: object) -> object:
    """Text that UTF-8 and a line can hold: bytes that it cannot, and carriage returns, are written as escapes."""
    if not isinstance(cell, str):
        return cell
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\r", "\\r")
