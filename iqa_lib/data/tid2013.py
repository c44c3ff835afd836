"""TID2013: 25 references with 24 types of distortion at 5 levels, 3,000 distorted images of 512x384.

Label: MOS, 0 to 9. Higher is better, and the score is the label as is.

The archive mixes cases: references are `I01.BMP` to `I24.BMP` but `i25.bmp`, and distorted images start with i or I
whatever `mos_with_names.txt` says. Reference 25 is synthetic. References 1 to 24 are crops of Kodak photographs that
also occur in LIVE, so the two sets share content.

There is no official split: 60/20/20 by reference.
"""

from iqa_lib.data.base import Label, Pair
from iqa_lib.data.folder import Archive, Counts, Folder, Line, Origin

LABEL = Label("MOS", 0, 9, higher_is_better=True)
ORIGIN = Origin(
    name="tid2013",
    citation="N. Ponomarenko et al.: Image database TID2013: Peculiarities, results and perspectives, Signal "
    "Processing: Image Communication 30, 2015",
    page="https://www.ponomarenko.info/tid2013.htm",
    archives=("tid2013.rar (0.9 GB)",),
    layout="""\
ROOT/mos_with_names.txt                  5.51429 I01_01_1.bmp
ROOT/reference_images/I01.BMP            I01 to I25, in any case
ROOT/distorted_images/I01_01_1.bmp       image_type_level, in any case""",
    terms="not known here: see the page and the readme in the archive",
    gigabytes=1.2,
    sources={"hub": (Archive("tid2013.tgz", top=("mos_with_names.txt",)),)},
    parts={"all": ("mos_with_names.txt",)},
    counts={"all": Counts(3_000, references=25, distorted=3_000)},
    fractions={"all": {"train": 0.6, "val": 0.2, "test": 0.2}},
    inside=("tid2013",),
)


def records(folder: Folder) -> list[Pair]:
    """One pair for each line of `mos_with_names.txt`."""
    return folder.read(folder.lines("mos_with_names.txt", columns=2, separator=None), _pair)


def _pair(folder: Folder, line: Line) -> Pair:
    mos, distorted = line.cells
    score = line.value(mos, LABEL)
    name, kind = line.match(r"(i\d\d)_(\d\d)_[1-5]\.bmp", distorted, "I01_01_1.bmp").groups()
    folder.unique(line, distorted)
    images = folder.image(f"reference_images/{name}.bmp"), folder.image(f"distorted_images/{distorted}")
    return Pair(*images, score, reference_id=name.upper(), original=score, kind=kind)
