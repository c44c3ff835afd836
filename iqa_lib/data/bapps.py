"""BAPPS, its 2AFC part: triplets of 64x64 patches, 151.4k to train (2 judgements each), 36.3k to validate (5 each).

Label: `judge`, the share of people who chose p1: 0 if all chose p0, 1 if all chose p1. With p0 as A and p1 as B it is
`p_b` as is.

The released code matches the four folders of a set by the order of their files; here their names must agree, too. The
official split is train and val. PRFNet's 187,744 triplets are `"all"`, which includes the validation sets.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from iqa_lib.data.base import DataError, Label, Triplet
from iqa_lib.data.folder import Archive, Counts, Folder, Line, Origin, parsing
from iqa_lib.progress import progress

LABEL = Label("judge", 0, 1, higher_is_better=True)
SETS = {
    "train": ("traditional", "cnn", "mix"),
    "val": ("traditional", "cnn", "superres", "deblur", "color", "frameinterp"),
}
FILES = "https://perceptual-similarity.s3.us-west-2.amazonaws.com/dataset"
ORIGIN = Origin(
    name="bapps",
    citation="R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang: The Unreasonable Effectiveness of Deep Features "
    "as a Perceptual Metric, CVPR 2018",
    page="https://github.com/richzhang/PerceptualSimilarity",
    archives=("twoafc_train.tar.gz (5.3 GB)", "twoafc_val.tar.gz (1.1 GB)"),
    layout="""\
ROOT/train/SET/{ref,p0,p1}/000000.png    SET: traditional, cnn, mix
ROOT/train/SET/judge/000000.npy
ROOT/val/SET/...                         SET: traditional, cnn, superres, deblur, color, frameinterp""",
    terms="the repository is under the BSD 2-clause licence; none is known for the patches: see the page",
    gigabytes=6.4,
    sources={
        "official": tuple(
            Archive(f"{FILES}/twoafc_{part}.tar.gz", top=(part,), into=part, part=part) for part in ("train", "val")
        ),
        "hub": (Archive("bapps.tgz", top=("train", "val")),),
    },
    parts={"train": ("train",), "val": ("val",)},
    counts={"train": Counts(151_400, verified=False), "val": Counts(36_344, verified=False)},
    inside=("dataset/2afc", "2afc"),
)


def records(folder: Folder, *, split: str = "all", sets: Iterable[str] | None = None) -> list[Triplet]:
    """One triplet for each judgement; `sets` are some of the split's (None: all)."""
    found = [(part, name) for part in SETS if split in (part, "all") for name in SETS[part]]
    names = {name for _, name in found}
    if not (chosen := set(names if sets is None else sets)) <= names:
        raise DataError(f"bapps: sets: got {sorted(chosen)}, expected some of what {split} has, {sorted(names)}")
    return folder.read(_stems(folder, [f"{part}/{name}" for part, name in found if name in chosen]), _triplet)


def _stems(folder: Folder, bases: list[str]) -> Iterator[tuple[str, str]]:
    """Folder and name of every triplet, whichever of its four files exists."""
    for base in bases:
        with folder.reporting():
            stems = set.union(*(folder.stems(f"{base}/{side}", ".png") for side in ("ref", "p0", "p1")))
            stems |= folder.stems(f"{base}/judge", ".npy")
            if not stems:
                raise DataError(f"{folder.root / base}: holds no triplet: unpack the archive again")
            yield from ((base, stem) for stem in progress(sorted(stems), f"bapps {base}"))


def _triplet(folder: Folder, place: tuple[str, str]) -> Triplet:
    base, stem = place
    path = folder.find(f"{base}/judge/{stem}.npy")
    with parsing(path):
        value = str(_number(path))
    p_b, kind = Line(path, 1, (value,)).value(value, LABEL), base.split("/")[1]
    images = (folder.image(f"{base}/{side}/{stem}.png") for side in ("ref", "p0", "p1"))
    return Triplet(*images, p_b, reference_id=f"{base}/{stem}", original=p_b, kind_a=kind, kind_b=kind)


def _number(path: Path) -> float:
    """The only number in a file of numpy's; a header is parsed once, since 187,744 files have the same."""
    content = path.read_bytes()
    if content[6:8] != bytes([1, 0]):  # another version of the format
        return np.load(BytesIO(content), allow_pickle=False).item()
    start = 10 + int.from_bytes(content[8:10], "little")
    return np.frombuffer(content, _kind(content[:start]), offset=start).item()


@cache
def _kind(header: bytes) -> np.dtype:
    """What numbers follow a header; an error if it is not one of a single number."""
    number = np.load(BytesIO(header + bytes(16)), allow_pickle=False)
    number.item()
    return number.dtype
