"""BAPPS, its 2AFC part: triplets of 64x64 patches, 151.4k to train (2 judgements each), 36.3k to validate (5 each).

R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", CVPR 2018.

Label: `judge`, the share of people who chose p1: 0 is all chose p0, 1 is all chose p1. With p0 as A and p1 as B it is
`p_b` as it stands.

The four folders of a set are matched by the order of their files; here the names must agree, too. The official split is
train and val. PRFNet's 187,744 triplets are `"all"`, which includes the validation sets.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from iqa_lib.data.base import DataError, IQADataset, Label, Triplet
from iqa_lib.data.folder import Counts, Folder, Line, Source, known_split, parsing
from iqa_lib.progress import progress

LABEL = Label("judge", 0, 1, higher_is_better=True)
SETS = {
    "train": ("traditional", "cnn", "mix"),
    "val": ("traditional", "cnn", "superres", "deblur", "color", "frameinterp"),
}
SOURCE = Source(
    name="bapps",
    title="Zhang et al.: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018",
    page="https://github.com/richzhang/PerceptualSimilarity",
    archives=("twoafc_train.tar.gz (5.3 GB)", "twoafc_val.tar.gz (1.1 GB)"),
    layout="""\
ROOT/train/SET/{ref,p0,p1}/000000.png    SET: traditional, cnn, mix
ROOT/train/SET/judge/000000.npy
ROOT/val/SET/...                         SET: traditional, cnn, superres, deblur, color, frameinterp""",
    terms="the repository is under the BSD 2-clause licence; none is known for the patches: see the page",
    parts={"train": ("train",), "val": ("val",)},
    counts={"train": Counts(151_400, verified=False), "val": Counts(36_344, verified=False)},
    inside=("dataset/2afc", "2afc"),
)


def records(
    root: Path | None, *, split: str = "all", sets: Iterable[str] | None = None, problems: list[str] | None = None
) -> list[Triplet]:
    """One triplet a judgement file; `sets` names those wanted (None: all of the split), `problems` as in `Folder`."""
    known_split(split, (*SETS, "all"))
    folder = Folder(root, SOURCE, problems)
    parts = [(part, name) for part in SETS if split in (part, "all") for name in SETS[part]]
    if sets is not None:
        wanted = set(sets)
        if unknown := wanted - {name for _, name in parts}:
            raise DataError(f"bapps: sets: got {sorted(unknown)}; {split} has {[name for _, name in parts]}")
        parts = [(part, name) for part, name in parts if name in wanted]
    triplets = []
    for part, name in parts:
        with folder.reporting():
            base = f"{part}/{name}"
            stems = [folder.stems(f"{base}/{side}", ".png") for side in ("ref", "p0", "p1")]
            stems.append(folder.stems(f"{base}/judge", ".npy"))
            if not any(stems):
                raise DataError(f"{folder.root / base}: holds no triplet: unpack the archive again")
            for stem in progress(sorted(set.union(*stems)), f"bapps {base}"):
                with folder.reporting():
                    judge = _judge(folder.find(f"{base}/judge/{stem}.npy"))
                    triplets.append(
                        Triplet(
                            *(folder.image(f"{base}/{side}/{stem}.png") for side in ("ref", "p0", "p1")),
                            judge,
                            reference_id=f"{base}/{stem}",
                            original=judge,
                            kind_a=name,
                            kind_b=name,
                        )
                    )
    return folder.complete(triplets)


def load(root: Path | None, *, split: str = "train", seed: int = 0, sets: Iterable[str] | None = None) -> IQADataset:
    """One side of the official split, or all; `sets` as in `records`. There is nothing to draw from `seed`."""
    return IQADataset(SOURCE.name, split, records(root, split=split, sets=sets), LABEL)


def _judge(path: Path) -> float:
    with parsing(path):
        values = np.load(path, allow_pickle=False)
        value = str(values.item())
    return Line(path, 1, (value,)).value(value, LABEL)
