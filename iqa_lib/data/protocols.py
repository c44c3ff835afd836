"""Which data set each paper trains and tests on, put together."""

from pathlib import Path

from iqa_lib.data import DataError, IQADataset, Label, load

PRFNET_SETS = ("demo", "clic")


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
    if dataset == "demo":
        return {
            "coarse": load("demo", split="train", seed=seed, votes=1, **demo),
            "fine": load("demo", split="train", seed=seed, votes=10, **demo),
            "test": load("demo", split="test", seed=seed, votes=1, **demo),
        }
    if dataset != "clic":
        raise DataError(f"PRFNet's data set came as {dataset!r}; wanted one of {', '.join(PRFNET_SETS)}")
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


def joined(*datasets: IQADataset, label: Label) -> IQADataset:
    """Several data sets of one kind as one, with a name that tells them."""
    names, splits = ("+".join(getattr(dataset, part) for dataset in datasets) for part in ("name", "split"))
    return IQADataset(names, splits, [record for dataset in datasets for record in dataset.records], label)
