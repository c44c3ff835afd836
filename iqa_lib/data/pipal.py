"""PIPAL, its public training release: 200 references with 116 distorted images each, 288x288.

The releases for the NTIRE challenges (validation and test, 25 references each) are not read: their labels are hidden.

Label: an Elo score of about 900 to 1850, called MOS. Higher is better, and the score is the label as is.

The archives spread the distorted images over four folders; some copies hold them in one, `Dist_Imgs`.

There is no official split of this release: 80/20 by reference; papers that test on all of it use `"all"`.
"""

from iqa_lib.data.base import Label, Pair
from iqa_lib.data.folder import Archive, Counts, Folder, Line, Origin

LABEL = Label("MOS", 500, 2500, higher_is_better=True)  # a value outside means a damaged file
FOLDERS = ("Distortion_1", "Distortion_2", "Distortion_3", "Distortion_4", "Dist_Imgs")
ORIGIN = Origin(
    name="pipal",
    citation="J. Gu et al.: PIPAL: a Large-Scale Image Quality Assessment Dataset for Perceptual Image Restoration, "
    "ECCV 2020",
    page="https://www.jasongt.com/projectpages/pipal.html",
    archives=("Train_Ref.zip", "Distortion_1.zip to Distortion_4.zip", "Train_Label.zip"),
    layout="""\
ROOT/Train_Label/A0000.txt               A0000_00_00.bmp,1434.6
ROOT/Train_Ref/A0000.bmp
ROOT/Distortion_1/A0000_00_00.bmp        image_type_level, in Distortion_1 to Distortion_4 or all in Dist_Imgs""",
    gigabytes=5.4,
    sources={"hub": (Archive("pipal.tar", top=("Train_Ref",)),)},
    parts={"all": ("Train_Label",)},
    counts={"all": Counts(23_200, references=200, distorted=23_200)},
    fractions={"all": {"train": 0.8, "test": 0.2}},
)


def records(folder: Folder) -> list[Pair]:
    """One pair for each line of the label files."""
    names = sorted(folder.stems("Train_Label", ".txt") | folder.stems("Train_Ref", ".bmp"))
    lines = (line for name in names for line in folder.lines(f"Train_Label/{name.upper()}.txt", columns=2))
    return folder.read(lines, _pair)


def _pair(folder: Folder, line: Line) -> Pair:
    distorted, mos = line.cells
    reference = line.path.stem.upper()
    kind = line.match(rf"{reference}_(\d\d)_\d\d\.bmp", distorted, f"{reference}_00_00.bmp")[1]
    folder.unique(line, distorted)
    score = line.value(mos, LABEL)
    images = folder.image(f"Train_Ref/{reference}.bmp"), folder.image(*(f"{name}/{distorted}" for name in FOLDERS))
    return Pair(*images, score, reference_id=reference, original=score, kind=kind)
