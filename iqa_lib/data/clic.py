"""CLIC perceptual metric track: an original, two reconstructions, and which of them one rater found closer to it.

Validation: 5,220 answers on 315 originals (2021). Training: the test set of 2021, whose answers were published in 2022.
Images are mostly 768x768.

Label: the column T of the list (O, A, B, T): 0 if A is closer, 1 if B is. It is `p_b` as is.

The same triplet may occur several times, also with contradicting answers; every row is a record. In some lists the
original itself is among the choices, as a control of the raters; `controls=False` leaves these rows out.

The official sides are `"train"` and `"validation"`. IQA-TMFM splits the first once more, 80/20 by row: `"train-80"`
and `"train-20"`, here by reference unless `by="row"`.

That the papers' training data (122,107 triplets) are the 2021 test set is inferred, and the layout of its archives was
not verified: images may be in folders named by the first digit of their names, or flat.
"""

from collections.abc import Iterator
from itertools import zip_longest

from iqa_lib.data.base import Label, Triplet
from iqa_lib.data.folder import Archive, Counts, Folder, Line, Origin

LABEL = Label("T", 0, 1, higher_is_better=True)
LISTS = {
    "train": ("train/oracle.csv", "train/clic2021_perceptual_test_answers.csv"),
    "validation": ("validation/oracle.csv", "oracle.csv", "validation/clic2021_perceptual_valid_answers.csv"),
}
QUESTIONS = "validation/validation.csv", "validation.csv"
PLACES = {"train": ("train/{0}.png", "train/{0[0]}/{0}.png"), "validation": ("validation/{}.png", "{}.png")}
FILES = "https://downloads.compression.cc"
ORIGIN = Origin(
    name="clic",
    citation="Workshop and Challenge on Learned Image Compression (CLIC) 2021, perceptual metric track",
    page="https://archive.compression.cc/datasets/ (devkit: https://github.com/fab-jul/clic2021-devkit)",
    archives=(
        "validation: clic_2021_perceptual_valid.zip, or clic2021_perceptual_valid_{crops,ratings}.zip",
        "train: clic_2021_perceptual_oracle.zip and 0.tar to f.tar, or clic2021_perceptual_test_{crops,ratings}.zip "
        "(crops of 46 to 135 GB, unverified)",
    ),
    layout="""\
ROOT/validation/oracle.csv               O,A,B,T without a header; compared with validation.csv (O,A,B) if that exists
ROOT/validation/HASH.png                 or these directly in ROOT
ROOT/train/oracle.csv                    O,A,B,T, or clic2021_perceptual_test_answers.csv
ROOT/train/0/HASH.png                    0 to f, the first digit of the name, or flat
Either part can be used without the other.""",
    sources={
        "official": tuple(
            Archive(f"{FILES}/clic2021_perceptual_{name}_{what}.zip", into=part, flat=True, part=part)
            for part, name in (("validation", "valid"), ("train", "test"))
            for what in ("ratings", "crops")
        )
    },
    parts={"train": ("train",), "validation": ("validation", "oracle.csv")},
    counts={"train": Counts(122_107, verified=False), "validation": Counts(5_220, references=315, distorted=2_415)},
    fractions={"train": {"train-80": 0.8, "train-20": 0.2}},
)


def records(folder: Folder, *, split: str = "all", controls: bool = True) -> list[Triplet]:
    """One triplet for each row of the lists; `controls` as above."""
    parts = [part for part in LISTS if split in (part, "all")]
    triplets = folder.read((answer for part in parts for answer in _answers(folder, part)), _triplet)
    return [triplet for triplet in triplets if controls or triplet.reference not in (triplet.a, triplet.b)]


def _answers(folder: Folder, part: str) -> Iterator[tuple[str, Line]]:
    """Part and line of every answer; the answers of validation must be to the questions, if those are there."""
    answers = [*folder.lines(*LISTS[part], columns=4)]
    if part == "validation" and any(map(folder.locate, QUESTIONS)):
        for answer, question in zip_longest(answers, folder.lines(*QUESTIONS, columns=3)):
            if answer is None or question is None or answer.cells[:3] != question.cells:
                with folder.reporting():
                    line = answer or question
                    raise line.error("the answers are not to the questions of validation.csv: download both again")
                break
    yield from ((part, answer) for answer in answers)


def _triplet(folder: Folder, place: tuple[str, Line]) -> Triplet:
    part, line = place
    *files, vote = line.cells
    if vote not in ("0", "1"):
        raise line.error(f"T: got {vote!r}, expected 0 or 1")
    names = [line.match(r"(?:.+/)?([^/]+)\.png", name, "0123abcd.png")[1] for name in files]
    images = (folder.image(*(pattern.format(name) for pattern in PLACES[part])) for name in names)
    return Triplet(*images, float(vote), reference_id=names[0].lower(), original=float(vote))
