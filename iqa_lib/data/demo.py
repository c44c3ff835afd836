"""The embedded demo set: everything runs on it, without a download.

References are the colour photographs that scikit-image, scikit-learn and matplotlib carry, and dead-leaves scenes
(occluding discs with power-law radii, the standard texture target of image-quality measurement), or the photographs of
a folder. Each gets KADID-10k's 25 distortions at 5 levels, at 512x384, the size their parameters were made for.

Scores are simulated. That of (type, level) is the mean human score that KADID-10k measured for it over its 81
references (`kadid10k_level_means.csv`; they explain 89 % of the variance of its 10,125 scores), plus the error of a
mean of 30 ratings. Votes follow Thurstone's case V: a person prefers B to A with probability
Phi((score_B - score_A) / (sqrt(2) sigma)). So nobody ever looked at these images, an image's content has no
influence on its score, and a number made with them is a demo number.

Images are made on first use and kept in the cache folder with a manifest of their hashes. Images, scores and votes are
one fixed data set; only the split depends on a seed.
"""

import csv
import hashlib
import json
import os
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy.stats import norm

from iqa_lib.checks import check_choice
from iqa_lib.data.base import DataError, IQADataset, Label, Pair, Triplet
from iqa_lib.data.distortions import DISTORTIONS, distort
from iqa_lib.data.folder import deal
from iqa_lib.data.splits import by_reference
from iqa_lib.files import DamagedError, atomic, cache_dir, intact, locked, sha256, sha256_once
from iqa_lib.images import encode_png, read_image
from iqa_lib.progress import progress

VERSION = 1  # part of the cache folder's name: raise it with every change of the code that changes a pixel
SIZE = (512, 384)
FRACTIONS = {"train": 0.7, "test": 0.3}
RATINGS, RATING_SD = 30, 0.7
SIGMA = 0.5
SCORE = Label("simulated MOS", 1.0, 5.0, True)
VOTES = Label("simulated share of votes for B", 0.0, 1.0, True)
TYPES = {d.number: d.name for d in DISTORTIONS}
ALL_TYPES = frozenset(TYPES)
FILES = {(number, level): f"{number:02d}_{level}.png" for number in TYPES for level in range(1, 6)}
CELLS = tuple(FILES)
PHOTOS = {
    "skimage.data": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}
ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class DemoReference:
    """A reference of the demo set: a photograph's file, or the number of a dead-leaves scene."""

    name: str
    photo: Path | None = None
    scene: int = 0

    def render(self) -> np.ndarray:
        """Its pixels, uint8 RGB `(384, 512, 3)`."""
        if self.photo is None:
            return dead_leaves(np.random.default_rng((7, self.scene)))
        pixels = read_image(self.photo).permute(1, 2, 0).numpy()
        return np.asarray(ImageOps.fit(Image.fromarray(pixels), SIZE, Image.Resampling.LANCZOS))


def load(
    root: Path | None = None,
    *,
    split: str = "train",
    seed: int = 0,
    task: str = "triplets",
    photos: Path | str = "",
    scenes: int = 12,
    triplets: int = 60,
    votes: int = 1,
    pairs: int = 0,
    tested: int = 0,
    tested_triplets: int = 0,
    types: Collection[int] = ALL_TYPES,
    by: str = "reference",
) -> IQADataset:
    """One side of the demo set; missing images are made.

    Args:
        root: Folder for the images; None for the cache folder.
        split: `"train"` (70 % of the references), `"test"` or `"all"`; `seed` is its number.
        task: `"pairs"`: distorted images with their scores; or `"triplets"`.
        photos: Folder of photographs to use instead of the packaged ones.
        scenes: Number of dead-leaves scenes among the references.
        triplets: Per reference, for `task="triplets"`.
        votes: People asked about each triplet: 1 gives labels 0 or 1, more give shares. Another number of votes draws
            other triplets, as the papers' two stages have data sets of their own.
        pairs: Distorted images of a reference in use, for both tasks, drawn from those of `types`; 0: all, 5 a type.
        tested: The sides other than `"train"` use only those of so many, drawn from all 125; 0: of all.
        tested_triplets: Per reference, on the sides other than `"train"`; 0: `triplets`.
        types: Numbers of the types of distortion, 1 to 25.
        by: `"reference"`, or `"row"`, which deals out images or triplets one by one and so leaks references.

    Raises DataError for an unknown split, task, type or `by`, or no usable photograph in the folder.
    """
    found = {reference.name: reference for reference in references(photos, scenes)}
    sides = by_reference(found, FRACTIONS, seed) | {"all": sorted(found)}
    check_choice(sides, error=DataError, split=split)
    check_choice(("pairs", "triplets"), error=DataError, task=task)
    if by == "row" and tested_triplets:
        raise DataError(f"tested_triplets: got {tested_triplets} with by='row', expected 0: both sides are dealt alike")
    if not types or not set(types) <= ALL_TYPES:
        raise DataError(f"types: got {sorted(types)}, expected numbers from 1 to 25")
    chosen = [found[name] for name in sides["all" if by == "row" else split]]
    root = root or cache_dir() / "demo" / f"v{VERSION}"
    if split == "train":
        tested = tested_triplets = 0
    seen = {each: _drawn(each.name, CELLS, 0 if by == "row" else tested) for each in chosen}
    used = {each: _drawn(each.name, [cell for cell in seen[each] if cell[0] in types], pairs) for each in chosen}
    if task == "pairs":
        records = [pair for each in chosen for pair in _pairs(root / each.name, used[each])]
    else:
        records = [
            x for each in chosen for x in _triplets(root / each.name, used[each], tested_triplets or triplets, votes)
        ]
    if by != "reference":
        dealt = deal(records, split, FRACTIONS, seed, by)
        allowed = {each.name: {FILES[cell] for cell in _drawn(each.name, CELLS, tested)} for each in chosen}
        records = [x for x in dealt if {path.name for path in x.images[1:]} <= allowed[x.reference_id]]
    make(root, chosen, {path for record in records for path in record.images})
    return IQADataset("demo", split, records, SCORE if task == "pairs" else VOTES)


def references(photos: Path | str = "", scenes: int = 12) -> list[DemoReference]:
    """The packaged photographs, or those of the folder `photos` (`DataError` if there are none), and the scenes."""
    found = packaged_photos()
    if photos:
        found = sorted(path for path in Path(photos).glob("*") if path.suffix.lower() in ENDINGS)
    if not found:
        kinds = ", ".join(ENDINGS)
        raise DataError(f"photos: got no photograph in {photos}, expected four or more {kinds} in a folder")
    hashes: dict[str, Path] = {}
    for path in found:
        if (first := hashes.setdefault(sha256(path), path)) != path:
            twice = f"{first.name} and {path.name}, one photograph under two names"
            raise DataError(
                f"photos: got {twice}, expected each once, so that no split has it on both sides: remove one"
            )
    taken = [DemoReference(f"{path.stem}-{hashed[:8]}", photo=path) for hashed, path in hashes.items()]
    return taken + [DemoReference(f"leaves{number:02d}", scene=number) for number in range(scenes)]


def packaged_photos() -> list[Path]:
    """The colour photographs that scikit-image, scikit-learn and matplotlib carry."""
    return [Path(str(files(package) / name)) for package, names in PHOTOS.items() for name in names]


def dead_leaves(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A scene of discs that hide one another, radii by the power law r^-3, in colours around a few random ones."""
    width, height = 2 * size[0], 2 * size[1]  # reduced at the end, so that edges are smooth
    canvas, empty = np.zeros((height, width, 3)), np.ones((height, width), bool)
    palette = rng.uniform(0.1, 0.9, (6, 1)) + rng.normal(0, 0.12, (6, 3))
    low, high = 8.0, height / 2
    while empty.any():
        radius = (low**-2 - rng.random() * (low**-2 - high**-2)) ** -0.5
        x, y = rng.uniform(-radius, width + radius), rng.uniform(-radius, height + radius)
        colour = palette[rng.integers(6)] + rng.normal(0, 0.06, 3)
        slope = rng.normal(0, 0.12, 2)
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        down, across = np.nonzero(empty[top : max(0, int(y + radius) + 2), left : max(0, int(x + radius) + 2)])
        down, across = down + top, across + left
        visible = (across - x) ** 2 + (down - y) ** 2 <= radius**2
        if not visible.any():
            continue
        down, across = down[visible], across[visible]
        shade = ((across - x) * slope[0] + (down - y) * slope[1]) / radius
        canvas[down, across] = np.clip(np.clip(colour, 0, 1) + shade[:, None], 0, 1)
        empty[down, across] = False
    scene = Image.fromarray((255 * canvas + 0.5).astype(np.uint8))
    return np.asarray(scene.resize(size, Image.Resampling.BOX))  # (H, W, 3)


@cache
def level_means() -> dict[tuple[int, int], float]:
    """KADID-10k's mean score of each `(type, level)`, 1 (worst) to 5 (best)."""
    lines = (files("iqa_lib.data") / "kadid10k_level_means.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {(int(row["type"]), int(row["level"])): float(row["mean_score"]) for row in rows}


def scores(reference: str) -> dict[tuple[int, int], float]:
    """The simulated MOS of a reference's 125 distorted images."""
    noise = _rng(reference, 1).normal(0, RATING_SD / RATINGS**0.5, len(CELLS))
    return {cell: float(np.clip(level_means()[cell] + error, 1, 5)) for cell, error in zip(CELLS, noise, strict=True)}


def probability_b_closer(score_a, score_b):
    """Probability that a person finds B closer (Thurstone's case V with dispersion `SIGMA` on the score scale)."""
    return norm.cdf((score_b - score_a) / (2**0.5 * SIGMA))


def make(root: Path, sources: Sequence[DemoReference], paths: Collection[Path]) -> None:
    """Make those of the images that are missing or damaged, and enter their hashes into `manifest.json`."""
    manifest, keys = root / "manifest.json", {path: f"{path.parent.name}/{path.name}" for path in sorted(paths)}

    def look() -> tuple[dict[str, str], list[Path]]:
        known = intact(manifest, _read_manifest, {})
        wanted = ((path, known.get(key, "")) for path, key in keys.items())
        return known, [path for path, hashed in wanted if not intact(path, partial(_as_made, hashed=hashed), False)]

    if not look()[1]:
        return
    with locked(root / ".lock"):
        known, missing = look()
        if not missing:
            return
        needed = {path.parent.name for path in missing}
        rendered = {source.name: source.render() for source in sources if source.name in needed}

        def make_one(path: Path) -> tuple[str, str]:
            name, image = path.parent.name, rendered[path.parent.name]
            if path.stem != "reference":
                number, level = map(int, path.stem.split("_"))
                image = distort(image, number, level, _rng(name, 2, number, level))
            data = encode_png(image)
            with atomic(path) as temporary:
                temporary.write_bytes(data)
            return keys[path], hashlib.sha256(data).hexdigest()

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = dict(progress(pool.map(make_one, missing), "making demo images", total=len(missing)))
        with atomic(manifest) as temporary:
            temporary.write_text(json.dumps(dict(sorted((known | made).items())), indent=0), encoding="utf-8")


def _read_manifest(file: Path) -> dict[str, str]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{file} is damaged ({error})") from error


def _as_made(path: Path, hashed: str) -> bool:
    """Whether an image is known by its SHA-256; DamagedError if it has another."""
    if hashed and sha256_once(path) != hashed:
        raise DamagedError(f"{path} is damaged, or another image")
    return bool(hashed)


def _drawn(name: str, cells: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """So many of a reference's types and levels; 0: all."""
    if not 0 < count < len(cells):
        return list(cells)
    return [cells[i] for i in sorted(_rng(name, 4).choice(len(cells), count, replace=False))]


def _pairs(folder: Path, cells: Sequence[tuple[int, int]]) -> list[Pair]:
    name, reference, score = folder.name, folder / "reference.png", scores(folder.name)
    chosen = ((cell, score[cell]) for cell in cells)
    return [Pair(reference, folder / FILES[cell], value, name, value, TYPES[cell[0]]) for cell, value in chosen]


def _triplets(folder: Path, cells: Sequence[tuple[int, int]], count: int, votes: int) -> list[Triplet]:
    name, reference, records = folder.name, folder / "reference.png", []
    rng, score = _rng(name, 3, votes), scores(name)
    values = np.array([score[cell] for cell in cells])
    closer = probability_b_closer(values[:, None], values)  # (A, B)
    for _ in range(count):
        places = rng.choice(len(cells), 2, replace=False)
        p_b = rng.binomial(votes, closer[*places]) / votes
        a, b = (cells[i] for i in places)
        kinds = TYPES[a[0]], TYPES[b[0]]
        records.append(Triplet(reference, folder / FILES[a], folder / FILES[b], p_b, name, p_b, *kinds))
    return records


def _rng(reference: str, *purpose: int) -> np.random.Generator:
    return np.random.default_rng((zlib.crc32(reference.rsplit("-", 1)[0].encode()), *purpose))
