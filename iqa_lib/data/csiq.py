"""CSIQ: 30 references with 6 types of distortion at 4 or 5 levels, 866 distorted images of 512x512.

Label: DMOS, 0 to 1, where 0 is as good as the reference. Lower is better, so the score is `1 - dmos`.

The labels come from the sheet `all_by_image` of `csiq.DMOS.xlsx`, below a header that is not in the first row; image
1600 is a number there, and types are spelt differently from the file names. Without the workbook they come from
`csiq_label.txt`, a list made by users (`1600.AWGN.1.png 0.062`). Some copies hold all images in one folder.

There is no official split: 60/20/20 by reference.
"""

from collections.abc import Iterator
from contextlib import closing

from openpyxl import load_workbook

from iqa_lib.data.base import DataError, Label, Pair
from iqa_lib.data.folder import Archive, Counts, Folder, Line, Origin, parsing

LABEL = Label("DMOS", 0, 1, higher_is_better=False)
# dst_type in the workbook: token in the file name, which in lower case is the folder
TOKENS = {"noise": "AWGN", "jpeg": "JPEG", "jpeg 2000": "jpeg2000", "blur": "BLUR"}
TOKENS |= {name: name for name in ("fnoise", "contrast")}
FILES = "https://s2.smu.edu/~eclarson/csiq"
ORIGIN = Origin(
    name="csiq",
    citation="E. C. Larson, D. M. Chandler: Most apparent distortion: full-reference image quality assessment and the "
    "role of strategy, Journal of Electronic Imaging 19(1), 2010",
    page="https://s2.smu.edu/~eclarson/csiq.html",
    archives=("src_imgs.zip", "dst_imgs.zip", "csiq.DMOS.xlsx"),
    layout="""\
ROOT/csiq.DMOS.xlsx                      or csiq_label.txt: 1600.AWGN.1.png 0.062
ROOT/src_imgs/1600.png
ROOT/dst_imgs/awgn/1600.AWGN.1.png       awgn, jpeg, jpeg2000, fnoise, blur, contrast
                                         or flat in dst_imgs or dst_imgs_all""",
    gigabytes=0.4,
    sources={
        "official": (
            Archive(f"{FILES}/csiq.DMOS.xlsx"),
            *(Archive(f"{FILES}/{name}.zip", top=(name,), into=name) for name in ("src_imgs", "dst_imgs")),
        ),
        "hub": (Archive("csiq.tgz", top=("src_imgs",)),),
    },
    parts={"all": ("src_imgs",)},
    counts={"all": Counts(866, references=30, distorted=866)},
    fractions={"all": {"train": 0.6, "val": 0.2, "test": 0.2}},
)


def records(folder: Folder) -> list[Pair]:
    """One pair for each row of the workbook, or line of the users' list."""
    return folder.read(_labels(folder), _pair)


def _labels(folder: Folder) -> Iterator[Line]:
    """Name and DMOS of the distorted images."""
    if folder.locate("csiq.DMOS.xlsx") is None and folder.locate("csiq_label.txt"):
        yield from folder.lines("csiq_label.txt", columns=2, separator=None)
        return
    with folder.reporting():
        path = folder.find("csiq.DMOS.xlsx")
        with parsing(path), closing(load_workbook(path, read_only=True, data_only=True)) as workbook:
            rows = [*workbook["all_by_image"].iter_rows(values_only=True)]
        names = "image", "dst_type", "dst_lev", "dmos"
        header = next((number for number, row in enumerate(rows) if {*names} <= {*row}), None)
        if header is None:
            expected = f"the columns {', '.join(names)}"
            raise DataError(f"{path}: no row of sheet all_by_image has {expected}: download it again")
        columns = [rows[header].index(name) for name in names]
        while not any(rows[-1]):
            rows.pop()
        for number, row in enumerate(rows[header + 1 :], header + 2):
            image, kind, level, dmos = (str(row[column]).removesuffix(".0") for column in columns)
            yield Line(path, number, (f"{image}.{TOKENS.get(kind, kind)}.{level}.png", dmos))


def _pair(folder: Folder, line: Line) -> Pair:
    name, dmos = line.cells
    pattern = rf"([^/]+)\.({'|'.join(TOKENS.values())})\.[1-5](\.png)?"
    reference, kind, _ = line.match(pattern, name, "1600.AWGN.1.png").groups()
    kind, file = kind.lower(), f"{name.removesuffix('.png')}.png"
    folder.unique(line, file)
    original = line.value(dmos, LABEL)
    distorted = folder.image(f"dst_imgs/{kind}/{file}", f"dst_imgs/{file}", f"dst_imgs_all/{file}")
    images = folder.image(f"src_imgs/{reference}.png"), distorted
    return Pair(*images, 1 - original, reference_id=reference.lower(), original=original, kind=kind)
