"""KADID-10k: 81 references with 25 types of distortion at 5 levels, 10,125 distorted images of 512x384.

Label: the column `dmos` is, despite its name, a mean rating from 1 (very annoying) to 5 (imperceptible). Higher is
better, and the score is the label as is. The column `var` is a variance; it is not used.

There is no official split: 80/20 by reference.
"""

from iqa_lib.data.base import Label, Pair
from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.data.folder import Archive, Counts, Folder, Line, Origin

LABEL = Label("dmos", 1, 5, higher_is_better=True)
ORIGIN = Origin(
    name="kadid10k",
    citation="H. Lin, V. Hosu, D. Saupe: KADID-10k: A Large-scale Artificially Distorted IQA Database, QoMEX 2019",
    page="https://database.mmsp-kn.de/kadid-10k-database.html",
    archives=("kadid10k.zip (3.1 GB)",),
    layout="""\
ROOT/dmos.csv                  dist_img,ref_img,dmos,var
ROOT/images/I01.png            references, I01 to I81
ROOT/images/I01_01_01.png      image_type_level""",
    terms="freely available to the research community; cite the paper (no formal licence known)",
    gigabytes=3.1,
    sources={
        "official": (Archive("https://datasets.vqa.mmsp-kn.de/archives/kadid10k.zip", top=("dmos.csv",)),),
        "hub": (Archive("kadid10k.tgz", top=("dmos.csv",)),),
    },
    parts={"all": ("dmos.csv",)},
    counts={"all": Counts(10_125, references=81, distorted=10_125)},
    fractions={"all": {"train": 0.8, "test": 0.2}},
    inside=("kadid10k",),
)


def records(folder: Folder) -> list[Pair]:
    """One pair for each line of `dmos.csv`."""
    return folder.read(folder.table("dmos.csv", columns=("dist_img", "ref_img", "dmos")), _pair)


def _pair(folder: Folder, line: Line) -> Pair:
    distorted, reference, dmos = line.cells
    name, kind = line.match(r"(i\d\d)_(0[1-9]|1\d|2[0-5])_0[1-5]\.png", distorted, "I01_01_01.png").groups()
    if reference.lower() != f"{name}.png".lower():
        raise line.error(f"ref_img: got {reference!r} beside {distorted}, expected {name}.png")
    folder.unique(line, distorted)
    score, kind = line.value(dmos, LABEL), DISTORTIONS[int(kind) - 1].name
    images = (folder.image(f"images/{file}") for file in (reference, distorted))
    return Pair(*images, score, reference_id=name.upper(), original=score, kind=kind)
