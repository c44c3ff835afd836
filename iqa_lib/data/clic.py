"""CLIC perceptual metric track: original, two reconstructions, and which of them one rater took to be closer.

Workshop and Challenge on Learned Image Compression (CLIC), 2021: 5,220 answers on 315 originals to validate; its test
set, whose answers were published in 2022, serves to train. Images are mostly 768x768.

Label: the column T of the list (O, A, B, T): 0 is A closer, 1 is B closer; it is `p_b` as it stands.

The same triplet may occur several times, also with contradicting answers; every row is a record. In some lists the
original itself is among the choices, as a control of the raters: `controls=False` leaves these rows out.

The official sides are `"train"` and `"validation"`. IQA-TMFM divides the first once more, 80/20 by row: `"train-80"`
and `"train-20"`, here by reference unless `by="row"`.

That the training data of the papers (122,107 triplets) are the 2021 test set is inferred, and the layout of its
archives was not verified: images may lie in folders named by the first digit of their names, or flat.
"""

from itertools import zip_longest
from pathlib import Path

from iqa_lib.data.base import IQADataset, Label, Triplet
from iqa_lib.data.folder import Counts, Folder, Line, Source, deal, known_split

LABEL = Label("T", 0, 1, higher_is_better=True)
FRACTIONS = {"train-80": 0.8, "train-20": 0.2}
LISTS = {
    "train": ("train/oracle.csv", "train/clic2021_perceptual_test_answers.csv"),
    "validation": ("validation/oracle.csv", "oracle.csv", "validation/clic2021_perceptual_valid_answers.csv"),
}
QUESTIONS = "validation/validation.csv", "validation.csv"
PLACES = {"train": ("train/{0}.png", "train/{0[0]}/{0}.png"), "validation": ("validation/{}.png", "{}.png")}
SOURCE = Source(
    name="clic",
    title="Workshop and Challenge on Learned Image Compression (CLIC) 2021, perceptual metric track",
    page="https://archive.compression.cc/datasets/ (devkit: https://github.com/fab-jul/clic2021-devkit)",
    archives=(
        "validation: clic_2021_perceptual_valid.zip, or clic2021_perceptual_valid_{crops,ratings}.zip",
        "train: clic_2021_perceptual_oracle.zip and 0.tar to f.tar, or clic2021_perceptual_test_{crops,ratings}.zip "
        "(crops of 46 to 135 GB, unverified)",
    ),
    layout="""\
ROOT/validation/oracle.csv               O,A,B,T without a header; validation.csv (O,A,B) beside it is compared
ROOT/validation/HASH.png                 or these directly in ROOT
ROOT/train/oracle.csv                    O,A,B,T, or clic2021_perceptual_test_answers.csv
ROOT/train/0/HASH.png                    0 to f, the first digit of the name, or flat
Either part will do without the other.""",
    terms="not known here: see the page",
    parts={"train": ("train",), "validation": ("validation", "oracle.csv")},
    counts={
        "train": Counts(122_107, verified=False),
        "validation": Counts(5_220, references=315, distorted=2_415),
    },
)


def records(
    root: Path | None, *, split: str = "all", controls: bool = True, problems: list[str] | None = None
) -> list[Triplet]:
    """One triplet a row of the lists.

    Args:
        root: The data set's folder.
        split: `"train"`, `"validation"` or `"all"`.
        controls: Whether to keep rows in which the original is one of the choices.
        problems: As in `Folder`.
    """
    known_split(split, (*LISTS, "all"))
    folder = Folder(root, SOURCE, problems)
    triplets = []
    for part in [part for part in LISTS if split in (part, "all")]:
        answers = [*folder.lines(*LISTS[part], columns=4)]
        if part == "validation":
            _compare(folder, answers)
        for line in answers:
            with folder.reporting():
                original, a, b, vote = line.cells
                if vote not in ("0", "1"):
                    raise line.error(f"T: got {vote!r}, expected 0 or 1")
                names = [line.match(r"(?:.+/)?([^/]+)\.png", name, "0123abcd.png")[1] for name in (original, a, b)]
                if controls or names[0] not in names[1:]:
                    images = (folder.image(*(place.format(name) for place in PLACES[part])) for name in names)
                    triplets.append(Triplet(*images, float(vote), reference_id=names[0].lower(), original=float(vote)))
    return folder.complete(triplets)


def load(
    root: Path | None, *, split: str = "train", seed: int = 0, by: str = "reference", controls: bool = True
) -> IQADataset:
    """One side of a split, see the module; `controls` as in `records`, `by` as in `deal`."""
    known_split(split, (*LISTS, *FRACTIONS, "all"))
    if split in FRACTIONS:
        found = deal(records(root, split="train", controls=controls), split, FRACTIONS, seed, by)
    else:
        found = records(root, split=split, controls=controls)
    return IQADataset(SOURCE.name, split, found, LABEL)


def _compare(folder: Folder, answers: list[Line]) -> None:
    """Report if `validation.csv` is there and asks other questions than were answered."""
    if any(map(folder.locate, QUESTIONS)):
        for answer, question in zip_longest(answers, folder.lines(*QUESTIONS, columns=3)):
            if answer is None or question is None or answer.cells[:3] != question.cells:
                line = answer or question
                folder.report(line.error("the answers are not to the questions of validation.csv: download both again"))
                return
