"""PieAPP: pairs of distorted images of 200 references, 256x256, with the share of people who preferred one of them.

The references come from the Waterloo Exploration Database (K. Ma et al., IEEE TIP 2017).

Label: the probability that **A** is preferred, so `p_b = 1 - label`. Train and val have a processed column, which is
complete and is used, and a raw one, which is blank where nobody was asked. Test has one column, from people throughout.

Header names start with a space. The test set also compares distorted images with their reference, whose file is in
`reference_images`; `controls=False` leaves these pairs out.

The official split is train, val and test, by reference. PRFNet's 82,080 pairs are `"all"`; `include_test=False` makes
`"all"` the 77,280 of train and val.
"""

from collections.abc import Iterator

from iqa_lib.data.base import Label, Triplet
from iqa_lib.data.folder import Archive, Counts, Folder, Line, Origin

COLUMNS = {"train": "processed preference for A", "val": "processed preference for A", "test": "preference for A"}
EXAMPLE = "distort_1_TYPE_inter_1.png"
LABEL = Label("preference for A", 0, 1, higher_is_better=False)
FILES = "https://web.ece.ucsb.edu/~ekta/projects/PieAPPv0.1"
ORIGIN = Origin(
    name="pieapp",
    citation="E. Prashnani, H. Cai, Y. Mostofi, P. Sen: PieAPP: Perceptual Image-Error Assessment Through Pairwise "
    "Preference, CVPR 2018",
    page="https://github.com/prashnani/PerceptualImageError/blob/master/dataset/dataset_README.md",
    archives=("all_data_PieAPP_dataset_CVPR_2018.zip (2.2 GB)",),
    layout="""\
ROOT/train_reference_list.txt                                    ref_1.png; also val_ and test_
ROOT/labels/train/ref_1_pairwise_labels.csv                      also val, test
ROOT/reference_images/train/ref_1.png                            also val, test
ROOT/distorted_images/train/ref_1/distort_1_TYPE_inter_1.png     also val, test""",
    terms="non-commercial, educational use only; cite the paper and the Waterloo Exploration Database",
    gigabytes=2.2,
    sources={
        "official": (Archive(f"{FILES}/all_data_PieAPP_dataset_CVPR_2018.zip", top=("train_reference_list.txt",)),),
        "hub": (Archive("pieapp.tgz", top=("train_reference_list.txt",)),),
    },
    parts={split: (f"{split}_reference_list.txt",) for split in COLUMNS},
    counts={
        "train+val": Counts(77_280, references=160, distorted=19_680),
        "test": Counts(4_800, references=40, distorted=600, verified=False),  # README: 4,200, without the reference
    },
    inside=("PieAPP_dataset_CVPR_2018",),
)


def records(folder: Folder, *, split: str = "all", include_test: bool = True, controls: bool = True) -> list[Triplet]:
    """One triplet for each line of the label files; options as above."""
    parts = [part for part in COLUMNS if split == part or (split == "all" and (include_test or part != "test"))]
    triplets = folder.read((line for part in parts for line in _lines(folder, part)), _triplet)
    return [triplet for triplet in triplets if controls or triplet.reference not in (triplet.a, triplet.b)]


def _lines(folder: Folder, part: str) -> Iterator[tuple[str, str, Line]]:
    """Part, reference and line, for all lines of the label files of a part."""
    columns = "ref. image", "distorted image A", "distorted image B", COLUMNS[part]
    for entry in folder.lines(f"{part}_reference_list.txt", columns=1):
        with folder.reporting():
            name = entry.match(r"(ref_\d+)(\.png)?", entry.cells[0], "ref_1.png")[1]
            folder.unique(entry, name)
            table = folder.table(f"labels/{part}/{name}_pairwise_labels.csv", columns=columns)
            yield from ((part, name, line) for line in table)


def _triplet(folder: Folder, place: tuple[str, str, Line]) -> Triplet:
    part, name, line = place
    reference, *choices, label = line.cells
    if reference != f"{name}.png":
        raise line.error(f"reference: got {reference!r}, expected {name}.png")
    original, images, kinds = line.value(label, LABEL), [folder.image(f"reference_images/{part}/{reference}")], []
    for choice in choices:
        kind = line.match(rf"{name}\.png|distort_\d+_(.+?)(_int(er|ra).*)?\.png", choice, EXAMPLE)[1]
        where = f"distorted_images/{part}/{name}" if kind else f"reference_images/{part}"
        images.append(folder.image(f"{where}/{choice}"))
        kinds.append(kind or "reference")
    return Triplet(*images, 1 - original, name, original, *kinds)
