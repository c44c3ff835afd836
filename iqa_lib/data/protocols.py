"""Which data set each paper trains and tests on, put together."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from iqa_lib.data import DataError, IQADataset, Label, load
from iqa_lib.data.demo import ALL_TYPES
from iqa_lib.data.folder import deal

TRIPLET_SETS = ("demo", "clic")
PAIR_SETS = ("demo", "pipal", "kadid10k", "tid2013", "live", "csiq")
PREFERENCE_TESTS = {"demo": "test", "bapps": "val", "pieapp": "test"}
"""TOPIQ's data sets of triplets, each with the side that is tested."""
CROSS_TYPES = frozenset({2, 6, 10, 13, 17, 20, 24})
"""The demo set's types of distortion that a cross-data-set test keeps away from training: one or two of each family."""


def prfnet(dataset: str, root: Path | str, *, seed: int = 0, clean: bool = False, **demo) -> dict[str, IQADataset]:
    """The three sides of PRFNet: `coarse` (hard labels), `fine` (soft labels) and `test`.

    Args:
        dataset: `"clic"`, the paper's (section 3.1): CLIC-T; BAPPS and PieAPP; CLIC-V. `"demo"`: single votes, shares
            of ten votes on other triplets of the same references, and single votes on held-out references.
        root: The folder that holds `clic`, `bapps` and `pieapp`.
        seed: Number of the demo set's split.
        clean: Train on the official training parts only. The row counts of the paper's Table 1 include the
            validation sets of BAPPS and the test set of PieAPP, and so does the default.
        **demo: Options of `iqa_lib.data.demo.load`.

    Raises:
        DataError: Unknown data set, or one that is not there.
    """
    _known(dataset, TRIPLET_SETS, "PRFNet's")
    if dataset == "demo":
        return {
            "coarse": load("demo", split="train", seed=seed, votes=1, **demo),
            "fine": load("demo", split="train", seed=seed, votes=10, **demo),
            "test": load("demo", split="test", seed=seed, votes=1, **demo),
        }
    root, official = Path(root), "train" if clean else "all"
    return {
        "test": load("clic", root / "clic", split="validation"),
        "coarse": load("clic", root / "clic", split="train"),
        "fine": joined(
            load("bapps", root / "bapps", split=official),
            load("pieapp", root / "pieapp", split=official),
            label=Label("share preferring B", 0.0, 1.0, True),
        ),
    }


def iqa_tmfm(
    dataset: str, root: Path | str, *, seed: int = 0, hold_out: bool = False, by: str = "row", **demo
) -> dict[str, IQADataset]:
    """The sides of IQA-TMFM: `train`, `test`, and `selection` if a fifth of the training records is held out.

    Args:
        dataset: `"clic"`, the paper's: CLIC-T, tested on CLIC-V. `"demo"`: single votes, tested on held-out references.
        root: The folder that holds `clic`.
        seed: Of the demo set's split, and of the one between `train` and `selection`.
        hold_out: Whether to hold out the records by which the released code chooses its epoch.
        by: What the fifth is made of: `"row"` as in the released code, which so has triplets of one reference on both
            sides, or `"reference"`.
        **demo: Options of `iqa_lib.data.demo.load`.

    Raises:
        DataError: Unknown data set, or one that is not there.
    """
    _known(dataset, TRIPLET_SETS, "IQA-TMFM's")
    if dataset == "clic":
        root, demo = Path(root) / "clic", {}
    else:
        root, demo = None, {"votes": 1} | demo
    test = load(dataset, root, split="validation" if dataset == "clic" else "test", seed=seed, **demo)
    train = load(dataset, root, split="train", seed=seed, **demo)
    if not hold_out:
        return {"train": train, "test": test}
    return {"test": test} | _without_a_fifth(train, seed, by)


def scored(
    dataset: str,
    root: Path | str,
    *,
    seed: int = 0,
    cross: str = "",
    hold_out: bool = False,
    by: str = "reference",
    **demo,
) -> dict[str, IQADataset]:
    """The sides of a network that is trained on pairs with scores (AHIQ, FR+NR, TOPIQ): `train`, `test` and more.

    Args:
        dataset: One of `PAIR_SETS`, split by reference as its module tells.
        root: The folder that holds the data sets.
        seed: Of the splits.
        cross: Another data set, tested on as a whole, as side `cross`. With `"demo"` the network is trained and tested
            on 18 types of distortion, and `cross` has the 7 others, on the references of `test`.
        hold_out: Add side `selection`, by which an epoch can be chosen: LIVE's, CSIQ's and TID2013's `val`, elsewhere a
            fifth of the training references.
        by: `"reference"`, or `"row"`, which leaks references and measures what that makes.
        **demo: Options of `iqa_lib.data.demo.load`.

    Raises:
        DataError: Unknown data set, or one that is not there.
    """
    _known(dataset, PAIR_SETS, "the")
    if cross and (cross not in PAIR_SETS or (cross == "demo") != (dataset == "demo")):
        raise DataError(f"cross: got {cross!r} with {dataset!r}, expected another of {', '.join(PAIR_SETS)}, or none")
    if dataset == "demo":
        demo = {"task": "pairs", "types": ALL_TYPES - CROSS_TYPES if cross else ALL_TYPES} | demo
        load_side = partial(load, "demo", seed=seed, by=by, **demo)
    else:
        load_side = partial(load, dataset, Path(root) / dataset, seed=seed, by=by)
    sides = {"train": load_side(split="train"), "test": load_side(split="test")}
    if hold_out and dataset in ("live", "csiq", "tid2013"):
        sides["selection"] = load_side(split="val")
    elif hold_out:
        sides |= _without_a_fifth(sides["train"], seed, by)
    if cross == "demo":
        sides["cross"] = load_side(split="test", types=CROSS_TYPES)
    elif cross:
        sides["cross"] = load(cross, Path(root) / cross, split="all")
    return sides


def topiq(
    dataset: str,
    root: Path | str,
    *,
    task: str = "score",
    trained: bool = True,
    seed: int = 0,
    cross: str = "",
    **demo,
) -> dict[str, IQADataset]:
    """The sides of TOPIQ: `test`, with `train` for what is trained, and perhaps `cross`.

    Args:
        dataset: One of `PAIR_SETS`, or of `PREFERENCE_TESTS` for preferences.
        root: The folder that holds the data sets.
        task: `"score"`: pairs with scores, see `scored`. `"preference"`: triplets, in the official split.
        trained: False for LPIPS+, which is tested on all of a data set of pairs; of the demo set on the same
            references as the networks, to stand beside them.
        seed: See `scored`.
        cross: See `scored`; for pairs and what is trained only.
        **demo: Options of `iqa_lib.data.demo.load`.

    Raises:
        DataError: Unknown data set, one that is not there, or `cross` where there is none.
    """
    if cross and (task == "preference" or not trained):
        raise DataError(f"cross: got {cross!r}, expected none, but for a network that is trained on scores")
    if task == "score" and trained:
        return scored(dataset, root, seed=seed, cross=cross, **demo)
    known = PAIR_SETS if task == "score" else tuple(PREFERENCE_TESTS)
    _known(dataset, known, f"TOPIQ's (task {task!r})")
    if dataset == "demo":
        load_side = partial(load, "demo", seed=seed, **{"task": "pairs" if task == "score" else "triplets"} | demo)
    else:
        load_side = partial(load, dataset, Path(root) / dataset, seed=seed)
    tested = PREFERENCE_TESTS[dataset] if task == "preference" else "test" if dataset == "demo" else "all"
    return ({"train": load_side(split="train")} if trained else {}) | {"test": load_side(split=tested)}


def scaled(dataset: IQADataset, low: float, high: float) -> IQADataset:
    """The same pairs, their scores brought linearly from [`low`, `high`] to [0, 1]."""
    records = [replace(record, score=(record.score - low) / (high - low)) for record in dataset.records]
    return IQADataset(dataset.name, dataset.split, records, dataset.label)


def _without_a_fifth(train: IQADataset, seed: int, by: str) -> dict[str, IQADataset]:
    """The training side without a fifth of it, and that fifth as `selection`."""
    parts = {"train": 0.8, "selection": 0.2}
    return {
        side: IQADataset(train.name, side, deal(train.records, side, parts, seed, by), train.label) for side in parts
    }


def _known(dataset: str, known: tuple[str, ...], paper: str) -> None:
    if dataset not in known:
        raise DataError(f"{paper} data set: got {dataset!r}, expected one of {', '.join(known)}")


def joined(*datasets: IQADataset, label: Label) -> IQADataset:
    """Several data sets of one kind as one, with a name that tells them."""
    names, splits = ("+".join(getattr(dataset, part) for dataset in datasets) for part in ("name", "split"))
    return IQADataset(names, splits, [record for dataset in datasets for record in dataset.records], label)
