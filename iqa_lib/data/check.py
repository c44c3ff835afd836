"""Verify a data set on disk and name all that is wrong, `check`; say where it comes from, `where`, and more, `page`."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import chain, combinations
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

import iqa_lib.data
from iqa_lib.data.base import DataError, Label, Pair, Triplet
from iqa_lib.data.folder import Folder, Source
from iqa_lib.files import atomic
from iqa_lib.images import read_image
from iqa_lib.progress import progress

DEMO = "demo is made by iqa_lib itself, on first use: `iqa_lib.data.load('demo')`; there is nothing to unpack"
SLACK = 0.2  # of an unverified count: a part of an archive was not unpacked, or the number is not right

Records = Sequence[Pair] | Sequence[Triplet]


class Count(NamedTuple):
    """How many records, references or distorted images a part of a data set has, beside the published number."""

    part: str
    what: str
    found: int
    published: int | None
    verified: bool

    def __str__(self) -> str:
        found = f"{self.part}: {self.found:,} {self.what}"
        if self.published is None:
            return found
        return f"{found}, {self.published:,} published{'' if self.verified else ' (unverified)'}"

    @property
    def off(self) -> bool:
        """Whether it is not the published number."""
        return self.published not in (None, self.found)

    @property
    def wrong(self) -> bool:
        """Whether it is so far from the published number that something must be missing or double."""
        return self.off and abs(self.found - self.published) > (0 if self.verified else SLACK * self.published)


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        name: The data set.
        counts: Of every part that was unpacked.
        labels: Lowest and highest label as downloaded, None without records.
        repeats: Records whose images came before in the same order (CLIC: one question, several answers).
        decoded: Number of images that decode.
        problems: Everything wrong, each with the file it is in.
        remarks: What is worth knowing but not wrong.
    """

    name: str
    counts: tuple[Count, ...] = ()
    labels: tuple[float, float] | None = None
    repeats: int = 0
    decoded: int = 0
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        lines = [str(count) for count in self.counts]
        if self.labels:
            low, high = self.labels
            lines.append(f"labels {low:g} to {high:g}; {self.repeats:,} repeats; {self.decoded:,} images decoded")
        lines += [f"remark: {remark}" for remark in self.remarks]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines.append(
            f"{self.name}: {len(self.problems):,} problems" if self.problems else f"{self.name}: nothing wrong"
        )
        return "\n".join(lines)


def check(
    name: str, root: Path | str | None, *, decode: bool = True, contact_sheet: Path | str | None = None, **options
) -> Report:
    """Verify label files, counts, sides of the official split, and that every image is there and decodes.

    It goes on after a problem, so that all are found. Nothing is ever downloaded.

    Args:
        name: One of `iqa_lib.data.NAMES`.
        root: The folder that the archives were unpacked into.
        decode: Whether to decode the images and compare their sizes, which is what takes long.
        contact_sheet: PNG file to draw some records with their labels into.
        **options: Of the data set's `records`.

    Raises:
        DataError: Unknown name, or `root` is no folder.
    """
    if name == "demo":
        return Report(name, remarks=(DEMO,))
    module = _module(name)
    folder = Folder(root, module.SOURCE)
    problems, remarks = [], []
    parts = {part: _records(module, root, part, options, problems) for part in module.SOURCE.parts if folder.has(part)}
    if not parts:
        problems.append(f"{folder.root}: holds nothing of {name}; {module.SOURCE.help()}")
    remarks += [f"{part} was not unpacked" for part in module.SOURCE.parts if parts and part not in parts]
    counts = tuple(_counts(module.SOURCE, parts))
    for count in counts:
        if count.off:
            (problems if count.wrong else remarks).append(str(count))
    for (left, ours), (right, theirs) in combinations(parts.items(), 2):
        for shared in sorted({record.reference_id for record in ours} & {record.reference_id for record in theirs}):
            problems.append(f"reference {shared} is in {left} and in {right}")
    records = [*chain.from_iterable(parts.values())]
    decoded = _decode(records, problems) if decode else 0
    if contact_sheet and records:
        _draw(records, module.LABEL, Path(contact_sheet))
    labels = [record.original for record in records]
    return Report(
        name,
        counts,
        labels=(min(labels), max(labels)) if labels else None,
        repeats=len(records) - len({record.images for record in records}),
        decoded=decoded,
        problems=tuple(dict.fromkeys(problems)),
        remarks=tuple(remarks),
    )


def where(name: str) -> str:
    """Where a data set comes from: title, official page, archives, layout wanted, terms of use.

    Raises:
        DataError: Unknown name.
    """
    if name == "demo":
        return DEMO
    source = _module(name).SOURCE
    archives, layout = "\n  ".join(source.archives), source.layout.replace("\n", "\n  ")
    return f"{source.title}\npage: {source.page}\narchives:\n  {archives}\nlayout:\n  {layout}\nterms: {source.terms}"


def page(name: str) -> str:
    """A page about a data set in Markdown: what it is, how labels and splits are read, and `where` it comes from.

    Raises:
        DataError: Unknown name.
    """
    title, _, text = _module(name).__doc__.strip().partition("\n")
    return f"## `{name}`\n\n**{title}**\n{text}\n\n```\n{where(name)}\n```\n"


def _module(name: str) -> ModuleType:
    if name not in iqa_lib.data.NAMES:
        raise DataError(f"data set {name!r} is unknown, expected one of {', '.join(iqa_lib.data.NAMES)}")
    return import_module(f"iqa_lib.data.{name}")


def _records(module: ModuleType, root: Path | str, part: str, options: dict, problems: list[str]) -> Records:
    side = {} if part == "all" else {"split": part}
    try:
        return module.records(root, problems=problems, **side, **options)
    except DataError as error:
        problems.append(str(error))
        return []


def _counts(source: Source, parts: dict[str, Records]) -> Iterator[Count]:
    for key, published in source.counts.items():
        if all(part in parts for part in key.split("+")):
            records = [record for part in key.split("+") for record in parts[part]]
            references = {record.reference for record in records}
            distorted = {path for record in records for path in record.images} - references
            yield Count(key, "records", len(records), published.records, published.verified)
            yield Count(key, "references", len(references), published.references, published.verified)
            yield Count(key, "distorted", len(distorted), published.distorted, published.verified)


def _decode(records: Records, problems: list[str], batch: int = 256) -> int:
    """Decode every image of the records that is there; add to the problems what fails, and sizes that differ."""
    paths = [*filter(os.path.lexists, dict.fromkeys(path for record in records for path in record.images))]
    sizes = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in progress(range(0, len(paths), batch), "decoding", unit=f"x{batch} images"):
            chunk = paths[start : start + batch]
            for path, outcome in zip(chunk, pool.map(_size, chunk), strict=True):
                if isinstance(outcome, str):
                    problems.append(outcome)
                else:
                    sizes[path] = outcome
    for record in records:
        found = [(path, sizes[path]) for path in record.images if path in sizes]
        if len({size for _, size in found}) > 1:
            problems.append("unequal sizes: " + ", ".join(f"{path} {size[0]}x{size[1]}" for path, size in found))
    return len(sizes)


def _size(path: Path) -> tuple[int, int] | str:
    """Width and height, or what is wrong."""
    try:
        _, height, width = read_image(path).shape
    except FileNotFoundError:
        return f"{path}: is missing"
    except ValueError as error:
        return str(error)
    return width, height


def _draw(records: Records, label: Label, file: Path, rows: int = 8, side: int = 192, caption: int = 16) -> None:
    """Contact sheet of records from the worst to the best score, each with its reference on the left."""
    ordered = sorted(records, key=lambda record: record.target)
    chosen = [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, min(rows, len(ordered)))]
    sheet = Image.new("RGB", (side * len(chosen[0].images), (side + caption) * len(chosen)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, record in enumerate(chosen):
        top = row * (side + caption)
        names = ", ".join(path.name for path in record.images[1:])
        pen.text((2, top + 2), f"{label.name} = {record.original:.4g}, here {record.target:.4g}: {names}", fill="black")
        for column, path in enumerate(record.images):
            with suppress(OSError, ValueError):
                image = Image.fromarray(read_image(path).permute(1, 2, 0).numpy())
                sheet.paste(ImageOps.contain(image, (side, side)), (column * side, top + caption))
    with atomic(file) as temporary:
        sheet.save(temporary, "PNG")
