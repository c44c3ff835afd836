"""PieAPP: pairs of distorted images of 200 references, 256x256, with the share of people who preferred one of them.

E. Prashnani, H. Cai, Y. Mostofi, P. Sen, "PieAPP: Perceptual Image-Error Assessment Through Pairwise Preference", CVPR
2018. The references come from the Waterloo Exploration Database (K. Ma et al., IEEE TIP 2017).

Label: the probability that **A** is preferred, so `p_b = 1 - label`. In train and val it is the processed column,
always there; the raw one is blank where a pair was not asked. In test there is one column, from people throughout.

Header names carry a leading space. The test set also compares distorted images with their reference, whose file then
lies in `reference_images`: `controls=False` leaves these pairs out.

The official split is train, val and test, by reference. PRFNet's 82,080 pairs are `"all"`; `include_test=False` makes
`"all"` the 77,280 of train and val.
"""

from pathlib import Path

from iqa_lib.data.base import IQADataset, Label, Triplet
from iqa_lib.data.folder import Counts, Folder, Source, known_split

COLUMNS = {
    "train": "processed preference for A",
    "val": "processed preference for A",
    "test": "preference for A",
}
EXAMPLE = "distort_1_TYPE_inter_1.png"
LABEL = Label("preference for A", 0, 1, higher_is_better=False)
SOURCE = Source(
    name="pieapp",
    title="Prashnani et al.: PieAPP: Perceptual Image-Error Assessment Through Pairwise Preference, CVPR 2018",
    page="https://github.com/prashnani/PerceptualImageError/blob/master/dataset/dataset_README.md",
    archives=("all_data_PieAPP_dataset_CVPR_2018.zip (2.2 GB)",),
    layout="""\
ROOT/train_reference_list.txt                                    ref_1.png; also val_ and test_
ROOT/labels/train/ref_1_pairwise_labels.csv                      also val, test
ROOT/reference_images/train/ref_1.png                            also val, test
ROOT/distorted_images/train/ref_1/distort_1_TYPE_inter_1.png     also val, test""",
    terms="non-commercial, educational use only; cite the paper and the Waterloo Exploration Database",
    parts={split: (f"{split}_reference_list.txt",) for split in COLUMNS},
    counts={
        "train+val": Counts(77_280, references=160, distorted=19_680),
        "test": Counts(4_800, references=40, distorted=600, verified=False),  # README: 4,200, without the reference
    },
    inside=("PieAPP_dataset_CVPR_2018",),
)


def records(
    root: Path | None,
    *,
    split: str = "all",
    include_test: bool = True,
    controls: bool = True,
    problems: list[str] | None = None,
) -> list[Triplet]:
    """One triplet a line of the label files.

    Args:
        root: The data set's folder.
        split: `"train"`, `"val"`, `"test"` or `"all"`.
        include_test: Whether `"all"` includes the test set.
        controls: Whether to keep pairs in which the reference is one of the choices.
        problems: As in `Folder`.
    """
    known_split(split, (*COLUMNS, "all"))
    folder = Folder(root, SOURCE, problems)
    triplets = []
    for part in [part for part in COLUMNS if split == part or (split == "all" and (include_test or part != "test"))]:
        for entry in folder.lines(f"{part}_reference_list.txt", columns=1):
            with folder.reporting():
                name = entry.match(r"(ref_\d+)(\.png)?", entry.cells[0], "ref_1.png")[1]
                folder.unique(entry, name)
                triplets += _pairs(folder, part, name)
    if not controls:
        triplets = [triplet for triplet in triplets if triplet.reference not in (triplet.a, triplet.b)]
    return folder.complete(triplets)


def load(
    root: Path | None, *, split: str = "train", seed: int = 0, include_test: bool = True, controls: bool = True
) -> IQADataset:
    """One side of the official split, or all; options as in `records`. There is nothing to draw from `seed`."""
    found = records(root, split=split, include_test=include_test, controls=controls)
    return IQADataset(SOURCE.name, split, found, LABEL)


def _pairs(folder: Folder, part: str, name: str) -> list[Triplet]:
    """Triplets of one reference."""
    columns = "ref. image", "distorted image A", "distorted image B", COLUMNS[part]
    triplets = []
    for line in folder.table(f"labels/{part}/{name}_pairwise_labels.csv", columns=columns):
        with folder.reporting():
            reference, *choices, preference = line.cells
            if reference != f"{name}.png":
                raise line.error(f"reference: got {reference!r}, expected {name}.png")
            original = line.value(preference, LABEL)
            images, kinds = [], []
            for choice in choices:
                kind = line.match(rf"{name}\.png|distort_\d+_(.+?)(_int(er|ra).*)?\.png", choice, EXAMPLE)[1]
                where = f"distorted_images/{part}/{name}" if kind else f"reference_images/{part}"
                images.append(folder.image(f"{where}/{choice}"))
                kinds.append(kind or "reference")
            triplets.append(
                Triplet(
                    folder.image(f"reference_images/{part}/{reference}"),
                    *images,
                    1 - original,
                    reference_id=name,
                    original=original,
                    kind_a=kinds[0],
                    kind_b=kinds[1],
                )
            )
    return triplets
