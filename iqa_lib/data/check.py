"""`check` a data set on disk and name all that is wrong; `where` it comes from, and a `page` about it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from iqa_lib.data.base import DataError, Label, Pair, Triplet, reader
from iqa_lib.data.folder import HUB, Folder, Origin, read_part
from iqa_lib.files import atomic
from iqa_lib.images import read_image
from iqa_lib.progress import progress

DEMO = "demo is made by iqa_lib itself, on first use by `iqa_lib.data.load('demo')`: there is nothing to unpack"
SLACK = 0.2  # tolerated share of an unverified count, which may be wrong; beyond it, part of an archive is missing

Records = Sequence[Pair] | Sequence[Triplet]


class Count(NamedTuple):
    """The number of records, references or distorted images in a part of a data set, beside the published one."""

    part: str
    what: str
    found: int
    published: int | None
    verified: bool

    def __str__(self) -> str:
        found = f"{self.part}: {self.found:,} {self.what}"
        published = "" if self.published is None else f", {self.published:,} published"
        return found + published + (" (unverified)" if published and not self.verified else "")

    def differs(self, tolerance: float = 0) -> bool:
        """Whether a number is published and differs from what was found by more than that share of it."""
        return self.published is not None and abs(self.found - self.published) > tolerance * self.published


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    name: str
    counts: tuple[Count, ...] = ()  # for every part that was unpacked
    labels: tuple[float, float] | None = None  # lowest and highest as downloaded
    repeats: int = 0  # records with the images of an earlier one (CLIC: one question, several answers)
    decoded: int = 0  # images that decode
    problems: tuple[str, ...] = ()  # everything wrong, with the file it is in
    remarks: tuple[str, ...] = ()  # worth knowing, but not wrong

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
        found = len(self.problems)
        lines.append(f"{self.name}: " + (f"{found:,} problem{'s' * (found > 1)}" if found else "nothing wrong"))
        return "\n".join(lines)


def check(
    name: str, root: Path | str | None, *, decode: bool = True, contact_sheet: Path | str | None = None, **options
) -> Report:
    """Verify label files, counts, sides of the official split, and that every image exists and decodes.

    It goes on after a problem, so that all are found; only a `root` that is not a folder raises `DataError`. Nothing is
    ever downloaded. Decoding the images and comparing their sizes takes most of the time: `decode=False` leaves it out.
    `contact_sheet` is a PNG file to draw some records with their labels into; `options` are those of `records`.
    """
    module = reader(name)
    if name == "demo":
        return Report(name, remarks=(DEMO,))
    origin, problems, parts = module.ORIGIN, [], {}
    folder = Folder(root, origin)
    for part in filter(folder.has, origin.parts):
        parts[part] = []
        try:
            parts[part] = read_part(module, root, part, problems=problems, **options)
        except DataError as error:
            problems.append(str(error))
    if not parts:
        problems.append(f"{folder.root}: holds nothing of {name}; {origin.help}")
    remarks = [f"{part} was not unpacked" for part in origin.parts if parts and part not in parts]
    counts = tuple(_counts(origin, parts))
    for count in filter(Count.differs, counts):
        (problems if count.differs(0 if count.verified else SLACK) else remarks).append(str(count))
    for (left, ours), (right, theirs) in combinations(parts.items(), 2):
        for shared in sorted({record.reference_id for record in ours} & {record.reference_id for record in theirs}):
            problems.append(f"reference {shared} is in {left} and in {right}")
    records = [*chain.from_iterable(parts.values())]
    decoded = _decode(records, problems) if decode else 0
    if contact_sheet and records:
        _draw(records, module.LABEL, Path(contact_sheet))
    labels = [record.original for record in records]
    extremes = (min(labels), max(labels)) if labels else None
    repeats = len(records) - len({record.images for record in records})
    return Report(name, counts, extremes, repeats, decoded, tuple(dict.fromkeys(problems)), tuple(remarks))


def where(name: str) -> str:
    """Where a data set comes from: citation, official page, archives, expected layout, terms of use."""
    module = reader(name)
    if name == "demo":
        return DEMO
    origin = module.ORIGIN
    archives, layout = "\n  ".join(origin.archives), origin.layout.replace("\n", "\n  ")
    sources = {key: [file.address for file in files] for key, files in origin.sources.items()}
    addresses = "".join(f"\n  {key}: {address}" for key, files in sources.items() for address in files)
    found = f"{origin.citation}\npage: {origin.page}\narchives:\n  {archives}\nlayout:\n  {layout}"
    found += f"\naddresses, tried in this order (hub: names in {HUB}, by its card CC BY-SA 4.0):{addresses}"
    return f"{found}\nterms: {origin.terms}"


def page(name: str) -> str:
    """Markdown about a data set: what it is, how labels and splits are read, and `where` it comes from."""
    title, _, text = reader(name).__doc__.strip().partition("\n")
    return f"## `{name}`\n\n**{title}**\n{text}\n\n```\n{where(name)}\n```\n"


def _counts(origin: Origin, parts: dict[str, Records]) -> Iterator[Count]:
    for key, published in origin.counts.items():
        names = key.split("+")
        if all(part in parts for part in names):
            records = [record for part in names for record in parts[part]]
            references = {record.reference for record in records}
            distorted = {path for record in records for path in record.images} - references
            for what, found in {"records": records, "references": references, "distorted": distorted}.items():
                yield Count(key, what, len(found), getattr(published, what), published.verified)


def _decode(records: Records, problems: list[str], batch: int = 256) -> int:
    """Decode the images that exist, and return how many do; what fails and unequal sizes are added to the problems."""
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
