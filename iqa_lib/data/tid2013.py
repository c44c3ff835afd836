"""TID2013: 25 references with 24 types of distortion at 5 levels, 3,000 distorted images of 512x384.

N. Ponomarenko et al., "Image database TID2013: Peculiarities, results and perspectives", Signal Processing: Image
Communication 30, 2015.

Label: MOS, 0 to 9, higher is better; the score as it stands.

The archive mixes cases: references are `I01.BMP` to `I24.BMP` but `i25.bmp`, and distorted images start with i or I
whatever `mos_with_names.txt` says. Reference 25 is synthetic. References 1 to 24 are crops of Kodak photographs that
also occur in LIVE, so the two sets share content.

There is no official split: 60/20/20, see `FRACTIONS`.
"""

from pathlib import Path

from iqa_lib.data.base import IQADataset, Label, Pair
from iqa_lib.data.folder import Counts, Folder, Source, deal

LABEL = Label("MOS", 0, 9, higher_is_better=True)
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
SOURCE = Source(
    name="tid2013",
    title="Ponomarenko et al.: Image database TID2013, Signal Processing: Image Communication 30, 2015",
    page="https://www.ponomarenko.info/tid2013.htm",
    archives=("tid2013.rar (0.9 GB)",),
    layout="""\
ROOT/mos_with_names.txt                  5.51429 I01_01_1.bmp
ROOT/reference_images/I01.BMP            I01 to I25, in any case
ROOT/distorted_images/I01_01_1.bmp       image_type_level, in any case""",
    terms="not known here: see the page and the readme in the archive",
    parts={"all": ("mos_with_names.txt",)},
    counts={"all": Counts(3_000, references=25, distorted=3_000)},
    inside=("tid2013",),
)


def records(root: Path | None, *, problems: list[str] | None = None) -> list[Pair]:
    """One pair a line of `mos_with_names.txt`; `problems` as in `Folder`."""
    folder = Folder(root, SOURCE, problems)
    pairs = []
    for line in folder.lines("mos_with_names.txt", columns=2, separator=None):
        with folder.reporting():
            mos, distorted = line.cells
            score = line.value(mos, LABEL)
            reference, kind = line.match(r"(i\d\d)_(\d\d)_[1-5]\.bmp", distorted, "I01_01_1.bmp").groups()
            folder.unique(line, distorted)
            pairs.append(
                Pair(
                    folder.image(f"reference_images/{reference}.bmp"),
                    folder.image(f"distorted_images/{distorted}"),
                    score,
                    reference_id=reference.upper(),
                    original=score,
                    kind=kind,
                )
            )
    return folder.complete(pairs)


def load(root: Path | None, *, split: str = "train", seed: int = 0, by: str = "reference") -> IQADataset:
    """One side of the split, see `iqa_lib.data.load`; `by` as in `deal`."""
    return IQADataset(SOURCE.name, split, deal(records(root), split, FRACTIONS, seed, by), LABEL)
