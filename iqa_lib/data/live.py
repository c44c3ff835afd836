"""LIVE release 2: 29 references with 5 types of distortion, 779 distorted images of about 768x512.

H. R. Sheikh, M. F. Sabir, A. C. Bovik, "A Statistical Evaluation of Recent Full Reference Image Quality Assessment
Algorithms", IEEE Transactions on Image Processing 15(11), 2006.

Label: DMOS, about 0 to 100, lower is better, so the score is `100 - dmos`. There are two files: `dmos_realigned.mat`,
recommended by the authors and the default, where values pass both 0 and 100; and `dmos.mat` (`dmos="original"`), which
other toolboxes use.

The 982 labels run through the folders in the order of `FOLDERS`, images counted from 1. 203 of them are undistorted
copies of references (`orgs` is 1): they are no records. Some references are Kodak photographs, which TID2013 has, too.

There is no official split: 60/20/20, see `FRACTIONS`.
"""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from iqa_lib.data.base import DataError, IQADataset, Label, Pair
from iqa_lib.data.folder import Counts, Folder, Line, Source, deal, parsing

LABEL = Label("DMOS", -20, 130, higher_is_better=False)  # outside of this a file is damaged
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
DMOS = {"realigned": ("dmos_realigned.mat", "dmos_new"), "original": ("dmos.mat", "dmos")}
SOURCE = Source(
    name="live",
    title="Sheikh, Sabir, Bovik: A Statistical Evaluation of Recent Full Reference IQA Algorithms, IEEE TIP 2006",
    page="https://live.ece.utexas.edu/research/Quality/subjective.htm",
    archives=("databaserelease2.zip (0.7 GB; the page gives its password)", "dmos_realigned.mat"),
    layout="""\
ROOT/dmos_realigned.mat        dmos_new, orgs; or dmos.mat (dmos, orgs) with dmos="original"
ROOT/refnames_all.mat          refnames_all
ROOT/refimgs/*.bmp
ROOT/jp2k/img1.bmp             to img227; jpeg 233; wn, gblur, fastfading 174 each""",
    terms="free to use with the copyright notice and citations that the archive's readme asks for",
    parts={"all": ("refnames_all.mat",)},
    counts={"all": Counts(779, references=29, distorted=779)},
    inside=("databaserelease2",),
)


def records(root: Path | None, *, dmos: str = "realigned", problems: list[str] | None = None) -> list[Pair]:
    """One pair a distorted image; `dmos` names the label file, `problems` as in `Folder`."""
    if dmos not in DMOS:
        raise DataError(f"live: dmos: got {dmos!r}, expected one of {', '.join(DMOS)}")
    folder = Folder(root, SOURCE, problems)
    images = [(kind, f"{kind}/img{number}.bmp") for kind, count in FOLDERS.items() for number in range(1, count + 1)]
    file, key = DMOS[dmos]
    pairs = []
    with folder.reporting():
        references = _column(folder, "refnames_all.mat", "refnames_all", len(images))
        labels = _column(folder, file, key, len(images))
        copies = _column(folder, file, "orgs", len(images))
        for (kind, image), reference, label, copy in zip(images, references, labels, copies, strict=True):
            with folder.reporting():
                if copy.cells[0] not in ("0", "1"):
                    raise copy.error(f"orgs: got {copy.cells[0]}, expected 0 or 1")
                if copy.cells[0] == "1":
                    continue
                name = reference.match(r"([^/]+)\.bmp", reference.cells[0], "bikes.bmp")[1]
                original = label.value(label.cells[0], LABEL)
                pairs.append(
                    Pair(
                        folder.image(f"refimgs/{name}.bmp"),
                        folder.image(image),
                        100 - original,
                        reference_id=name.lower(),
                        original=original,
                        kind=kind,
                    )
                )
    return folder.complete(pairs)


def load(
    root: Path | None, *, split: str = "train", seed: int = 0, by: str = "reference", dmos: str = "realigned"
) -> IQADataset:
    """One side of the split, see `iqa_lib.data.load`; `by` as in `deal`, `dmos` as in `records`."""
    return IQADataset(SOURCE.name, split, deal(records(root, dmos=dmos), split, FRACTIONS, seed, by), LABEL)


def _column(folder: Folder, file: str, key: str, count: int) -> list[Line]:
    path = folder.find(file)
    with parsing(path):
        values = np.ravel(loadmat(path, simplify_cells=True, variable_names=[key])[key]).tolist()
    if len(values) != count:
        raise DataError(f"{path}: {len(values)} values in {key}, expected {count}: download it again")
    return [Line(path, number, (str(value).removesuffix(".0"),)) for number, value in enumerate(values, 1)]
