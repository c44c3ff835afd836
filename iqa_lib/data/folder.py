"""What the readers share: where a data set comes from, its folder and label files read strictly, its splits."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from re import IGNORECASE, Match, fullmatch
from types import ModuleType

from iqa_lib.checks import check_choice
from iqa_lib.data.base import DataError, IQADataset, Label, Pair, Triplet
from iqa_lib.data.splits import by_reference


@dataclass(frozen=True)
class Counts:
    """Published numbers of a data set or of one part of it, None where nothing is published."""

    records: int
    references: int | None = None
    distorted: int | None = None
    verified: bool = True  # False if rounded, inferred or from third parties: `check` tolerates some deviation


HUB = "chaofengc/IQA-PyTorch-Datasets"
"""A data set repository of the Hugging Face hub: a toolbox's copies, by its card under CC BY-SA 4.0."""


@dataclass(frozen=True)
class Archive:
    """A file to fetch, and where its content belongs in the data set's folder."""

    address: str  # a URL, or a file's name in `HUB`
    top: tuple[str, ...] = ()  # names of what lies in the data set's folder itself; the first that the archive has
    into: str = ""  # the folder that all belongs into, where it has none of these
    flat: bool = False  # the archive's own folders are left out
    part: str = ""  # the one part of the data set that needs it; none: all


@dataclass(frozen=True)
class Origin:
    """Where a data set comes from and what it looks like on disk."""

    name: str  # as given to `iqa_lib.data.load`
    citation: str
    page: str  # the official one
    archives: tuple[str, ...]  # what to download there, with sizes where they are known
    layout: str  # the expected folders, as the archives unpack
    parts: dict[str, tuple[str, ...]]  # the sides of an official split, else "all"; paths that show a part is there
    counts: dict[str, Counts]  # of a part, or of several joined by "+"
    fractions: dict[str, dict[str, float]] = field(default_factory=dict)  # of a part whose split is not official
    inside: tuple[str, ...] = ()  # folders that the archives create around the layout
    terms: str = "not known here: see the page"
    sources: dict[str, tuple[Archive, ...]] = field(default_factory=dict)  # each a whole data set; tried in this order
    gigabytes: float | None = None  # of the archives, about; None: not known

    def size(self, split: str) -> int:
        """Records on a side, by the published counts, about where a share of the references decides."""
        part, share = next(((p, f[split]) for p, f in self.fractions.items() if split in f), (split, 1))
        joined = {key: counts for key, counts in self.counts.items() if part in ("all", *key.split("+"))}
        return round(share * sum(counts.records for counts in joined.values()))

    @property
    def help(self) -> str:
        """What to do about a folder that is not as expected."""
        more = f"`python -m iqa_lib.data where {self.name}` prints archives and terms"
        return f"expected layout:\n{self.layout}\nOfficial page: {self.page}\n{more}"

    @property
    def sides(self) -> tuple[str, ...]:
        """The values of `split`."""
        dealt = [side for fractions in self.fractions.values() for side in fractions]
        return *(side for side in (*self.parts, *dealt) if side != "all"), "all"


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
            raise self.error(f"file name: got {cell!r}, expected a name such as {example}")
        return match


class Folder:
    """A data set's folder, where names are found whatever their case.

    The first problem raises `DataError`; with a list of `problems` it is appended to that and reading goes on, for
    `iqa_lib.data.check`. That `root` is not a folder always raises.
    """

    def __init__(self, root: Path | str | None, origin: Origin, problems: list[str] | None = None):
        self.origin, self.problems = origin, problems
        self._names: dict[Path, dict[str, list[str]]] = {}
        self._images: dict[tuple[str, ...], Path] = {}
        self._missing: list[str] = []
        self._lines: dict[str, Line] = {}
        if root is None or not Path(root).is_dir():
            expected = "expected the folder that the archives were unpacked into"
            raise DataError(f"{origin.name}: root: got {root}, {expected}; {origin.help}")
        for inside in (*origin.inside, "."):
            self.root = Path(root) / inside
            self._folders: dict[str, Path | None] = {"": self.root}
            if any(map(self.has, origin.parts)):
                break

    def has(self, part: str) -> bool:
        """Whether a part of the data set was unpacked."""
        return any(map(self.locate, self.origin.parts[part]))

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """A block that a `DataError` ends; where `problems` are collected, it is added to them and reading goes on."""
        try:
            yield
        except DataError as error:
            if self.problems is None:
                raise
            self.problems.append(str(error))

    def names(self, folder: Path) -> dict[str, list[str]]:
        """Names in a folder by their lower case, without hidden files."""
        if (found := self._names.get(folder)) is None:
            found = self._names[folder] = {}
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
                if not name.startswith("."):
                    found.setdefault(name.lower(), []).append(name)
        return found

    def locate(self, relative: str) -> Path | None:
        """The file or folder of that name: in the same case if it exists, else in any case."""
        parent, _, name = relative.rpartition("/")
        if parent not in self._folders:
            self._folders[parent] = self.locate(parent)
        if (folder := self._folders[parent]) is None:
            return None
        found = self.names(folder).get(name.lower(), [])
        if len(found) > 1 and name not in found:
            raise DataError(f"{folder}: got {' and '.join(found)}, expected one of them, as {name}: remove the others")
        return folder / (name if name in found else found[0]) if found else None

    def find(self, *candidates: str) -> Path:
        """The first candidate that exists."""
        for relative in candidates:
            if path := self.locate(relative):
                return path
        raise DataError(f"{self.root / candidates[0]}: is missing; {self.origin.help}")

    def stems(self, relative: str, suffix: str) -> set[str]:
        """Names of the files with that suffix in a folder, without it and in lower case."""
        names = self.names(self.find(relative))
        return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}

    def image(self, *candidates: str) -> Path:
        """The path of the first candidate that exists; `complete` reports the images of which none does."""
        if candidates not in self._images:
            path = next(filter(None, map(self.locate, candidates)), None)
            if path is None:
                path = self.root / candidates[0]
                self._missing.append(" or ".join([str(path), *candidates[1:]]) + ": is missing")
            self._images[candidates] = path
        return self._images[candidates]

    def unique(self, line: Line, name: str) -> None:
        """Raise if an earlier line has the same name."""
        first = self._lines.setdefault(name.lower(), line)
        if first is not line:
            raise line.error(f"got {name} again, first in {first.path.name}, line {first.number}, expected it once")

    def read(self, lines: Iterable, make: Callable) -> list:
        """The record `make(self, line)` of each line, but for None; raises or reports all images that are missing."""
        records = []
        for line in lines:
            with self.reporting():
                records.append(make(self, line))
        if self.problems is not None:
            self.problems += self._missing
        elif self._missing:
            first, name, missing = "\n".join(self._missing[:5]), self.origin.name, len(self._missing)
            todo = f"`python -m iqa_lib.data check {name} {self.root}` lists all; {self.origin.help}"
            raise DataError(f"{name}: {missing} of {len(self._images)} images are missing, first:\n{first}\n{todo}")
        return [record for record in records if record is not None]

    def lines(self, *candidates: str, columns: int | None = None, separator: str | None = ",") -> Iterator[Line]:
        """Lines of a label file, split at the separator (None: at blanks) into `columns`, else as many as the first."""
        with self.reporting():
            path = self.find(*candidates)
            texts = _read_text(path)
            columns = columns or len(texts[0].split(separator))
            for number, text in enumerate(texts, 1):
                line = Line(path, number, tuple(cell.strip() for cell in text.split(separator)))
                with self.reporting():
                    if len(line.cells) != columns:
                        got = f"{len(line.cells)} in {text[:80]!r}" if text.strip() else "an empty line"
                        raise line.error(f"columns: got {got}, expected {columns}")
                    yield line

    def table(self, *candidates: str, columns: Sequence[str]) -> Iterator[Line]:
        """Lines of a CSV file below its header, their cells in the order of the named columns."""
        header, *rows = [*self.lines(*candidates)] or [None]
        with self.reporting():
            if header and (lacking := [name for name in columns if name not in header.cells]):
                raise header.error(f"header: got {list(header.cells)}, expected also {lacking}")
            if header and not rows:
                raise header.error("got nothing below the header, expected a line at least")
            order = [header.cells.index(name) for name in columns] if header else ()
            yield from (replace(row, cells=tuple(row.cells[index] for index in order)) for row in rows)


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """A block in which another library parses a file: whatever it raises becomes a `DataError` that names the file."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: cannot be read ({reason}): download or copy the file again") from error


def load_side(module: ModuleType, root: Path | None, *, split: str, seed: int, by="reference", **options) -> IQADataset:
    """One side of the data set that a reader's module reads, `options` as in its `records`, `by` as in `deal`."""
    origin = module.ORIGIN
    check_choice(origin.sides, error=DataError, split=split)
    check_choice(("reference", "row") if origin.fractions else ("reference",), error=DataError, by=by)
    part = next((part for part, fractions in origin.fractions.items() if split in fractions), split)
    records = read_part(module, root, part, **options)
    if part != split:
        records = deal(records, split, origin.fractions[part], seed, by)
    return IQADataset(origin.name, split, records, module.LABEL)


def read_part(module: ModuleType, root: Path | str | None, part: str, *, problems=None, **options) -> list:
    """The records of a part of a data set; `problems` as in `Folder`."""
    options |= {} if part == "all" else {"split": part}
    return module.records(Folder(root, module.ORIGIN, problems), **options)


def deal(records: Sequence[Pair | Triplet], split: str, fractions: dict[str, float], seed: int, by: str) -> list:
    """The records on one side of a split that is not official: a key of `fractions`, or `"all"`.

    `by="reference"` puts no reference on two sides; `"row"` leaks references, to repeat papers that did so and to
    measure the effect; `DataError` for anything else.
    """
    check_choice(("reference", "row"), error=DataError, by=by)
    if split == "all":
        return list(records)
    keys = [record.reference_id if by == "reference" else f"{row:09}" for row, record in enumerate(records)]
    side = set(by_reference(keys, fractions, seed)[split])
    return [record for key, record in zip(keys, records, strict=True) if key in side]


def _read_text(path: Path) -> list[str]:
    """Lines of a UTF-8 text file (with or without a byte order mark, LF or CRLF, end of the last line optional)."""
    with parsing(path):
        data, todo = path.read_bytes(), "download it again or save it as UTF-8"
    if b"\0" in data or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: got UTF-16 or binary data, expected UTF-8 text: {todo}")
    try:
        text = data.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: is not UTF-8: {todo}") from error
    if not text:
        raise DataError(f"{path}: is empty: download it again")
    return text.split("\n")
