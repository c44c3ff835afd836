"""What the readers share: a data set's folder, its label files read strictly, and its records dealt to a split."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from re import IGNORECASE, Match, fullmatch

from iqa_lib.data.base import DataError, Label, Pair, Triplet
from iqa_lib.data.splits import by_reference


@dataclass(frozen=True)
class Counts:
    """Published numbers of a data set or of one part of it, None where nothing is published.

    `verified` is False for numbers that are rounded, inferred or told by third parties: `check` allows for that.
    """

    records: int
    references: int | None = None
    distorted: int | None = None
    verified: bool = True


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and what it looks like on disk.

    Attributes:
        name: As given to `iqa_lib.data.load`.
        title: The publication to cite.
        page: The official page.
        archives: What to download there, each with its size where it is known.
        layout: The folders wanted, as the archives unpack.
        terms: Licence or terms of use, as far as they are known.
        parts: What can be unpacked without the rest, each with the paths of which one tells that it was. Where there is
            an official split its sides are the parts, otherwise the only part is `"all"`.
        counts: Published numbers of a part, or of several joined by `+`.
        inside: Folders that the archives make, in which the layout then starts.
    """

    name: str
    title: str
    page: str
    archives: tuple[str, ...]
    layout: str
    terms: str
    parts: dict[str, tuple[str, ...]]
    counts: dict[str, Counts]
    inside: tuple[str, ...] = ()

    def help(self) -> str:
        """What to do about a folder that is not as it should be."""
        return (
            f"wanted layout:\n{self.layout}\nOfficial page: {self.page}\n"
            f"`python -m iqa_lib.data where {self.name}` prints archives and terms"
        )


@dataclass(frozen=True)
class Line:
    """One line of a label file."""

    path: Path
    number: int
    cells: tuple[str, ...]

    def error(self, reason: str) -> DataError:
        return DataError(f"{self.path}, line {self.number}: {reason}")

    def value(self, cell: str, label: Label) -> float:
        """The cell as a number within the label's bounds."""
        try:
            value = float(cell)
        except ValueError:
            raise self.error(f"{label.name}: got {cell!r}, expected a number") from None
        if not (isfinite(value) and label.low <= value <= label.high):
            raise self.error(f"{label.name}: got {cell}, expected {label.low:g} to {label.high:g}")
        return value

    def match(self, pattern: str, cell: str, example: str) -> Match[str]:
        """The cell's parts by a regular expression that ignores case."""
        if not (match := fullmatch(pattern, cell, IGNORECASE)):
            raise self.error(f"{cell!r} came, expected a name such as {example}")
        return match


class Folder:
    """A data set's folder, where names are found whatever their case.

    Args:
        root: The folder that the archives were unpacked into.
        source: The data set.
        problems: Without it, the first thing wrong raises `DataError`. With it, everything wrong is added to it and
            reading goes on, for `iqa_lib.data.check`.

    Raises:
        DataError: `root` is None or no folder.
    """

    def __init__(self, root: Path | str | None, source: Source, problems: list[str] | None = None):
        self.source, self.problems = source, problems
        self._names: dict[Path, dict[str, list[str]]] = {}
        self._images: dict[tuple[str, ...], Path] = {}
        self._missing: list[str] = []
        self._lines: dict[str, Line] = {}
        if root is None or not Path(root).is_dir():
            came = "no folder was given" if root is None else f"{root} is no folder"
            raise DataError(f"{source.name}: {came}: give the one its archives were unpacked into; {source.help()}")
        for inside in (*source.inside, "."):
            self.root = Path(root) / inside
            self._folders: dict[str, Path | None] = {"": self.root}
            if any(self.has(part) for part in source.parts):
                break

    def has(self, part: str) -> bool:
        """Whether a part of the data set was unpacked."""
        return any(map(self.locate, self.source.parts[part]))

    def report(self, error: DataError) -> None:
        """Raise the error, or add it to `problems`."""
        if self.problems is None:
            raise error
        self.problems.append(str(error))

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """A block whose `DataError` is reported: the block is left, what follows it goes on."""
        try:
            yield
        except DataError as error:
            self.report(error)

    def names(self, folder: Path) -> dict[str, list[str]]:
        """Names in a folder by their lower case; hidden files are left out."""
        if folder not in self._names:
            found = self._names[folder] = {}
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
                if not name.startswith("."):
                    found.setdefault(name.lower(), []).append(name)
        return self._names[folder]

    def locate(self, relative: str) -> Path | None:
        """The file or folder of that name: as it is written if there is one, else in any case."""
        parent, _, name = relative.rpartition("/")
        if parent not in self._folders:
            self._folders[parent] = self.locate(parent)
        if (folder := self._folders[parent]) is None:
            return None
        found = self.names(folder).get(name.lower(), [])
        if len(found) > 1 and name not in found:
            raise DataError(
                f"{folder}: {' and '.join(found)} differ in case alone; {name} is wanted: remove the others"
            )
        return folder / (name if name in found else found[0]) if found else None

    def find(self, *candidates: str) -> Path:
        """The first of the candidates that is there."""
        for relative in candidates:
            if path := self.locate(relative):
                return path
        raise DataError(f"{self.root / candidates[0]}: is missing; {self.source.help()}")

    def stems(self, relative: str, suffix: str) -> set[str]:
        """Names of the files with that suffix in a folder, without it and in lower case."""
        names = self.names(self.find(relative))
        return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}

    def image(self, *candidates: str) -> Path:
        """The path of the first of the candidates that is there; if none is, `complete` will tell."""
        if candidates not in self._images:
            path = next(filter(None, map(self.locate, candidates)), None)
            if path is None:
                path = self.root / candidates[0]
                self._missing.append(" or ".join([str(path), *candidates[1:]]) + ": is missing")
            self._images[candidates] = path
        return self._images[candidates]

    def complete(self, records: list) -> list:
        """The records, if no image is missing."""
        if self.problems is not None:
            self.problems += self._missing
        elif self._missing:
            first = "\n".join(self._missing[:5])
            raise DataError(
                f"{self.source.name}: {len(self._missing)} of {len(self._images)} images are missing, first:\n{first}\n"
                f"`python -m iqa_lib.data check {self.source.name} {self.root}` lists all; {self.source.help()}"
            )
        return records

    def unique(self, line: Line, name: str) -> None:
        """Raise if an earlier line was about the same name."""
        first = self._lines.setdefault(name.lower(), line)
        if first is not line:
            raise line.error(f"{name} came before, in {first.path.name}, line {first.number}, expected every name once")

    def lines(self, *candidates: str, columns: int | None = None, separator: str | None = ",") -> Iterator[Line]:
        """Lines of a label file, split at the separator (None: at blanks); as many columns as the first if not told."""
        with self.reporting():
            path = self.find(*candidates)
            texts = _read_text(path)
            columns = columns or len(texts[0].split(separator))
            for number, text in enumerate(texts, 1):
                line = Line(path, number, tuple(cell.strip() for cell in text.split(separator)))
                if len(line.cells) == columns:
                    yield line
                else:
                    came = f"columns: {len(line.cells)} came" if text.strip() else "an empty line came"
                    self.report(line.error(f"{came}, expected {columns}: {text[:80]!r}"))

    def table(self, *candidates: str, columns: Sequence[str]) -> Iterator[Line]:
        """Lines of a CSV file below its header, their cells in the order of the columns named."""
        header, *rows = [*self.lines(*candidates)] or [None]
        if header is None:
            return
        if lacking := [name for name in columns if name not in header.cells]:
            self.report(header.error(f"no column {lacking} in the header; columns are {list(header.cells)}"))
        elif not rows:
            self.report(header.error("no line follows the header"))
        else:
            order = [header.cells.index(name) for name in columns]
            for row in rows:
                yield replace(row, cells=tuple(row.cells[index] for index in order))


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """A block in which another library parses a file: whatever it raises becomes a `DataError` that names the file."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: cannot be read ({reason}): download or copy the file again") from error


def deal(
    records: Sequence[Pair] | Sequence[Triplet],
    split: str,
    fractions: dict[str, float],
    seed: int,
    by: str = "reference",
) -> list:
    """The records on one side of a split that is no official one.

    Args:
        records: All of them.
        split: A key of `fractions`, or `"all"`.
        fractions: Share of each side.
        seed: The split's number.
        by: `"reference"`, so that no reference is on two sides; or `"row"`, which leaks references and is there to
            repeat papers that did so and to measure what it makes.

    Raises:
        DataError: Unknown `split` or `by`.
    """
    known_split(split, (*fractions, "all"))
    if by not in ("reference", "row"):
        raise DataError(f"by: got {by!r}, expected 'reference' or 'row'")
    if split == "all":
        return list(records)
    keys = [record.reference_id if by == "reference" else f"{row:09}" for row, record in enumerate(records)]
    side = set(by_reference(keys, fractions, seed)[split])
    return [record for key, record in zip(keys, records, strict=True) if key in side]


def known_split(split: str, splits: Sequence[str]) -> None:
    """Raise `DataError` if the split is none of those there are."""
    if split not in splits:
        raise DataError(f"split: got {split!r}, expected one of {', '.join(splits)}")


def _read_text(path: Path) -> list[str]:
    """Lines of a UTF-8 text file (with or without a byte order mark, LF or CRLF, end of the last line optional)."""
    with parsing(path):
        data = path.read_bytes()
    if b"\0" in data or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16 or no text, expected UTF-8: download it again or save it as UTF-8")
    try:
        text = data.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: is no UTF-8: download it again or save it as UTF-8") from error
    if not text:
        raise DataError(f"{path}: is empty: download it again")
    return text.split("\n")
