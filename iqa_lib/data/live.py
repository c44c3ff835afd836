"""LIVE release 2: 29 references with 5 types of distortion, 779 distorted images of about 768x512.

Label: DMOS, about 0 to 100. Lower is better, so the score is `100 - dmos`. There are two files: `dmos_realigned.mat`,
recommended by the authors and the default, where some values are below 0 or above 100; and `dmos.mat`
(`dmos="original"`), which other toolboxes use.

The 982 labels run through the folders in the order of `FOLDERS`, images counted from 1. 203 of them are undistorted
copies of references (`orgs` is 1), which are left out. Some references are Kodak photographs, which TID2013 has, too.

There is no official split: 60/20/20 by reference.
"""

import numpy as np
from scipy.io import loadmat

from iqa_lib.checks import check_choice
from iqa_lib.data.base import DataError, Label, Pair
from iqa_lib.data.folder import Archive, Counts, Folder, Line, Origin, parsing

LABEL = Label("DMOS", -20, 130, higher_is_better=False)  # a value outside means a damaged file
FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
DMOS = {"realigned": ("dmos_realigned.mat", "dmos_new"), "original": ("dmos.mat", "dmos")}
REALIGNED = "http://live.ece.utexas.edu/research/quality/release2/dmos_realigned.mat"
ORIGIN = Origin(
    name="live",
    citation="H. R. Sheikh, M. F. Sabir, A. C. Bovik: A Statistical Evaluation of Recent Full Reference Image Quality "
    "Assessment Algorithms, IEEE Transactions on Image Processing 15(11), 2006",
    page="https://live.ece.utexas.edu/research/Quality/subjective.htm",
    archives=("databaserelease2.zip (0.7 GB; the page gives its password)", "dmos_realigned.mat"),
    layout="""\
ROOT/dmos_realigned.mat        dmos_new, orgs; or dmos.mat (dmos, orgs) with dmos="original"
ROOT/refnames_all.mat          refnames_all
ROOT/refimgs/*.bmp
ROOT/jp2k/img1.bmp             to img227; jpeg 233; wn, gblur, fastfading 174 each""",
    terms="free to use with the copyright notice and citations that the archive's readme asks for",
    gigabytes=0.7,
    sources={
        "hub": (Archive("live.tgz", top=("refimgs",)), Archive(REALIGNED)),
        "hub without dmos_realigned.mat": (Archive("live.tgz", top=("refimgs",)),),
    },
    parts={"all": ("refnames_all.mat",)},
    counts={"all": Counts(779, references=29, distorted=779)},
    fractions={"all": {"train": 0.6, "val": 0.2, "test": 0.2}},
    inside=("databaserelease2",),
)


def records(folder: Folder, *, dmos: str = "realigned") -> list[Pair]:
    """One pair for each distorted image; `dmos` names the label file."""
    check_choice(DMOS, error=DataError, dmos=dmos)
    file, key = DMOS[dmos]
    images = [(kind, f"{kind}/img{number + 1}.bmp") for kind, count in FOLDERS.items() for number in range(count)]
    rows = []
    with folder.reporting():
        columns = ("refnames_all.mat", "refnames_all"), (file, key), (file, "orgs")
        rows = zip(images, *(_column(folder, *column, len(images)) for column in columns), strict=True)
    return folder.read(rows, _pair)


def _pair(folder: Folder, row: tuple[tuple[str, str], Line, Line, Line]) -> Pair | None:
    (kind, image), reference, label, copy = row
    if copy.cells[0] == "1":
        return None
    if copy.cells[0] != "0":
        raise copy.error(f"orgs: got {copy.cells[0]}, expected 0 or 1")
    name = reference.match(r"([^/]+)\.bmp", reference.cells[0], "bikes.bmp")[1]
    original = label.value(label.cells[0], LABEL)
    images = folder.image(f"refimgs/{name}.bmp"), folder.image(image)
    return Pair(*images, 100 - original, reference_id=name.lower(), original=original, kind=kind)


def _column(folder: Folder, file: str, key: str, count: int) -> list[Line]:
    path = folder.find(file)
    with parsing(path):
        values = np.ravel(loadmat(path, simplify_cells=True, variable_names=[key])[key]).tolist()
    if len(values) != count:
        raise DataError(f"{path}: got {len(values)} values in {key}, expected {count}: download it again")
    return [Line(path, number, (str(value).removesuffix(".0"),)) for number, value in enumerate(values, 1)]
