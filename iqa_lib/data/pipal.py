"""PIPAL, its public train release: 200 references with 116 distorted images each, 288x288.

J. Gu et al., "PIPAL: a Large-Scale Image Quality Assessment Dataset for Perceptual Image Restoration", ECCV 2020. The
labels of the releases for the NTIRE challenges (validation 25 references, test 25) are hidden; they are not read.

Label: an Elo score of about 900 to 1850, called MOS, higher is better; the score as it stands.

The archives spread the distorted images over four folders; some copies hold them in one, `Dist_Imgs`.

There is no official split of this release: 80/20, see `FRACTIONS`; papers that test on all of it want `"all"`.
"""

from pathlib import Path

from iqa_lib.data.base import IQADataset, Label, Pair
from iqa_lib.data.folder import Counts, Folder, Source, deal

LABEL = Label("MOS", 500, 2500, higher_is_better=True)  # outside of this a file is damaged
FRACTIONS = {"train": 0.8, "test": 0.2}
FOLDERS = ("Distortion_1", "Distortion_2", "Distortion_3", "Distortion_4", "Dist_Imgs")
SOURCE = Source(
    name="pipal",
    title="Gu et al.: PIPAL: a Large-Scale IQA Dataset for Perceptual Image Restoration, ECCV 2020",
    page="https://www.jasongt.com/projectpages/pipal.html",
    archives=("Train_Ref.zip", "Distortion_1.zip to Distortion_4.zip", "Train_Label.zip"),
    layout="""\
ROOT/Train_Label/A0000.txt               A0000_00_00.bmp,1434.6
ROOT/Train_Ref/A0000.bmp
ROOT/Distortion_1/A0000_00_00.bmp        image_type_level, in Distortion_1 to Distortion_4 or all in Dist_Imgs""",
    terms="not known here: see the page",
    parts={"all": ("Train_Label",)},
    counts={"all": Counts(23_200, references=200, distorted=23_200)},
)


def records(root: Path | None, *, problems: list[str] | None = None) -> list[Pair]:
    """One pair a line of the label files; `problems` as in `Folder`."""
    folder = Folder(root, SOURCE, problems)
    names = folder.stems("Train_Label", ".txt") | folder.stems("Train_Ref", ".bmp")
    pairs = []
    for reference in sorted(name.upper() for name in names):
        for line in folder.lines(f"Train_Label/{reference}.txt", columns=2):
            with folder.reporting():
                distorted, mos = line.cells
                kind = line.match(rf"{reference}_(\d\d)_\d\d\.bmp", distorted, f"{reference}_00_00.bmp")[1]
                folder.unique(line, distorted)
                score = line.value(mos, LABEL)
                pairs.append(
                    Pair(
                        folder.image(f"Train_Ref/{reference}.bmp"),
                        folder.image(*(f"{name}/{distorted}" for name in FOLDERS)),
                        score,
                        reference_id=reference,
                        original=score,
                        kind=kind,
                    )
                )
    return folder.complete(pairs)


def load(root: Path | None, *, split: str = "train", seed: int = 0, by: str = "reference") -> IQADataset:
    """One side of the split, see `iqa_lib.data.load`; `by` as in `deal`."""
    return IQADataset(SOURCE.name, split, deal(records(root), split, FRACTIONS, seed, by), LABEL)
