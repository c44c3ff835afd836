"""Which data set each paper trains and tests on, put together."""

from pathlib import Path

from iqa_lib.data import DataError, IQADataset, Label, load
from iqa_lib.data.folder import deal

TRIPLET_SETS = ("demo", "clic")


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
    _known(dataset, TRIPLET_SETS, "PRFNet")
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
    _known(dataset, TRIPLET_SETS, "IQA-TMFM")
    if dataset == "clic":
        root, demo = Path(root) / "clic", {}
    else:
        root, demo = None, {"votes": 1} | demo
    test = load(dataset, root, split="validation" if dataset == "clic" else "test", seed=seed, **demo)
    train = load(dataset, root, split="train", seed=seed, **demo)
    if not hold_out:
        return {"train": train, "test": test}
    parts = {
        side: deal(train.records, side, {"train": 0.8, "selection": 0.2}, seed, by) for side in ("train", "selection")
    }
    return {side: IQADataset(dataset, side, records, train.label) for side, records in parts.items()} | {"test": test}


def _known(dataset: str, known: tuple[str, ...], paper: str) -> None:
    if dataset not in known:
        raise DataError(f"{paper}'s data set came as {dataset!r}; wanted one of {', '.join(known)}")


def joined(*datasets: IQADataset, label: Label) -> IQADataset:
    """Several data sets of one kind as one, with a name that tells them."""
    names, splits = ("+".join(getattr(dataset, part) for dataset in datasets) for part in ("name", "split"))
    return IQADataset(names, splits, [record for dataset in datasets for record in dataset.records], label)
