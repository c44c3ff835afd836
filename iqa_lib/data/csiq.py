"""CSIQ: 30 references with 6 types of distortion at 4 or 5 levels, 866 distorted images of 512x512.

E. C. Larson, D. M. Chandler, "Most apparent distortion: full-reference image quality assessment and the role of
strategy", Journal of Electronic Imaging 19(1), 2010.

Label: DMOS, 0 to 1, 0 is as good as the reference: lower is better, so the score is `1 - dmos`.

The labels come from the sheet `all_by_image` of `csiq.DMOS.xlsx`, below a header that is not in the first row; image
1600 is a number there, and types are not spelt as in the file names. Without the workbook they come from
`csiq_label.txt`, a file of the community (`1600.AWGN.1.png 0.062`). Some copies hold all images in one folder.

There is no official split: 60/20/20, see `FRACTIONS`.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from openpyxl import load_workbook

from iqa_lib.data.base import DataError, IQADataset, Label, Pair
from iqa_lib.data.folder import Counts, Folder, Line, Source, deal, parsing

LABEL = Label("DMOS", 0, 1, higher_is_better=False)
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
TOKENS = {  # dst_type in the workbook: token in the file name; in lower case the token is the folder
    "noise": "AWGN",
    "jpeg": "JPEG",
    "jpeg 2000": "jpeg2000",
    "fnoise": "fnoise",
    "blur": "BLUR",
    "contrast": "contrast",
}
SOURCE = Source(
    name="csiq",
    title="Larson, Chandler: Most apparent distortion, Journal of Electronic Imaging 19(1), 2010",
    page="https://s2.smu.edu/~eclarson/csiq.html",
    archives=("src_imgs.zip", "dst_imgs.zip", "csiq.DMOS.xlsx"),
    layout="""\
ROOT/csiq.DMOS.xlsx                      or csiq_label.txt: 1600.AWGN.1.png 0.062
ROOT/src_imgs/1600.png
ROOT/dst_imgs/awgn/1600.AWGN.1.png       awgn, jpeg, jpeg2000, fnoise, blur, contrast
                                         or flat in dst_imgs or dst_imgs_all""",
    terms="not known here: see the page",
    parts={"all": ("src_imgs",)},
    counts={"all": Counts(866, references=30, distorted=866)},
)


def records(root: Path | None, *, problems: list[str] | None = None) -> list[Pair]:
    """One pair a row of the workbook, or a line of the community's list; `problems` as in `Folder`."""
    folder = Folder(root, SOURCE, problems)
    pairs = []
    for line in _labels(folder):
        with folder.reporting():
            name, dmos = line.cells
            pattern = rf"([^/]+)\.({'|'.join(TOKENS.values())})\.[1-5](\.png)?"
            reference, kind, _ = line.match(pattern, name, "1600.AWGN.1.png").groups()
            kind, distorted = kind.lower(), f"{name.removesuffix('.png')}.png"
            folder.unique(line, distorted)
            original = line.value(dmos, LABEL)
            pairs.append(
                Pair(
                    folder.image(f"src_imgs/{reference}.png"),
                    folder.image(f"dst_imgs/{kind}/{distorted}", f"dst_imgs/{distorted}", f"dst_imgs_all/{distorted}"),
                    1 - original,
                    reference_id=reference.lower(),
                    original=original,
                    kind=kind,
                )
            )
    return folder.complete(pairs)


def load(root: Path | None, *, split: str = "train", seed: int = 0, by: str = "reference") -> IQADataset:
    """One side of the split, see `iqa_lib.data.load`; `by` as in `deal`."""
    return IQADataset(SOURCE.name, split, deal(records(root), split, FRACTIONS, seed, by), LABEL)


def _labels(folder: Folder) -> Iterator[Line]:
    """Name and DMOS of the distorted images."""
    if folder.locate("csiq.DMOS.xlsx") is None and folder.locate("csiq_label.txt"):
        yield from folder.lines("csiq_label.txt", columns=2, separator=None)
        return
    with folder.reporting():
        path = folder.find("csiq.DMOS.xlsx")
        with parsing(path), closing(load_workbook(path, read_only=True, data_only=True)) as workbook:
            rows = [*workbook["all_by_image"].iter_rows(values_only=True)]
        wanted = "image", "dst_type", "dst_lev", "dmos"
        header = next((number for number, row in enumerate(rows) if {*wanted} <= {*row}), None)
        if header is None:
            raise DataError(
                f"{path}: no row with the columns {', '.join(wanted)} in sheet all_by_image: download it again"
            )
        columns = [rows[header].index(name) for name in wanted]
        while not any(rows[-1]):
            rows.pop()
        for number, row in enumerate(rows[header + 1 :], header + 2):
            image, kind, level, dmos = (str(row[column]).removesuffix(".0") for column in columns)
            yield Line(path, number, (f"{image}.{TOKENS.get(kind, kind)}.{level}.png", dmos))
