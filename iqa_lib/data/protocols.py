"""Which data sets each paper trains and tests on.

Every function takes these arguments and returns the sides by name; `DataError` for an unknown or missing data set.

    dataset: `"demo"`, or one of the paper's data sets, as given to `iqa_lib.data.load`.
    root: The folder that holds the data sets, each in a folder of its name.
    seed: Number of the splits by reference.
    demo: Options of `iqa_lib.data.demo.load`; other data sets ignore them.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from iqa_lib.checks import check_choice
from iqa_lib.data import DataError, IQADataset, Label, load
from iqa_lib.data.demo import ALL_TYPES
from iqa_lib.data.folder import deal

TRIPLET_SETS = ("demo", "clic")
PAIR_SETS = ("demo", "pipal", "kadid10k", "tid2013", "live", "csiq")
PREFERENCE_TESTS = {"demo": "test", "bapps": "val", "pieapp": "test"}
"""TOPIQ's data sets of triplets, each with the side that is tested."""
CROSS_TYPES = frozenset({2, 6, 10, 13, 17, 20, 24})
"""The demo set's types of distortion that a cross-data-set test withholds from training: one or two of each family."""
Sides = dict[str, IQADataset]


def prfnet(dataset: str, root: Path | str, *, seed=0, clean=False, demo: dict | None = None) -> Sides:
    """The sides of PRFNet (section 3.1): `coarse` (hard labels), `fine` (soft labels) and `test`.

    `"clic"`: CLIC-T; BAPPS and PieAPP; CLIC-V. `"demo"`: single votes; shares of ten votes on other triplets of the
    same references; single votes on held-out references. By default the validation sets of BAPPS and the test set of
    PieAPP are trained on, as the row counts of the paper's Table 1 include them; `clean` leaves them out.
    """
    side = _loader(TRIPLET_SETS, dataset, root, demo, seed=seed)
    if dataset == "demo":
        coarse, fine, test = side(split="train", votes=1), side(split="train", votes=10), side(split="test", votes=1)
    else:
        official = "train" if clean else "all"
        soft = [load(name, Path(root) / name, split=official) for name in ("bapps", "pieapp")]
        records, label = [*soft[0].records, *soft[1].records], Label("share preferring B", 0.0, 1.0, True)
        fine = IQADataset("bapps+pieapp", f"{official}+{official}", records, label)
        coarse, test = side(split="train"), side(split="validation")
    return {"coarse": coarse, "fine": fine, "test": test}


def iqa_tmfm(dataset: str, root: Path | str, *, seed=0, hold_out=False, by="row", demo: dict | None = None) -> Sides:
    """The sides of IQA-TMFM: `train` and `test`, with `hold_out` also `selection`.

    `"clic"`: CLIC-T, tested on CLIC-V. `"demo"`: single votes, tested on held-out references. `selection` is the fifth
    of the training records by which the released code chooses its epoch, drawn `by="row"` as there, which puts triplets
    of one reference on both sides, or by `"reference"`.
    """
    side = _loader(TRIPLET_SETS, dataset, root, {"votes": 1} | (demo or {}), seed=seed)
    train, test = side(split="train"), side(split="test" if dataset == "demo" else "validation")
    return (_held_out(train, 0.2, seed, by) if hold_out else {"train": train}) | {"test": test}


def scored(
    dataset: str,
    root: Path | str,
    *,
    seed=0,
    cross="",
    hold_out=False,
    train_all=False,
    by="reference",
    live_dmos="realigned",
    demo: dict | None = None,
) -> Sides:
    """The sides of a network trained on pairs with scores (AHIQ, FR+NR, TOPIQ): `train`, `test` and more.

    `cross` is another data set, tested as a whole, as side `cross`. With `"demo"` the network is trained and tested on
    18 types of distortion, and `cross` has the 7 others, on the references of `test`. `hold_out` adds side `selection`,
    to choose an epoch by, so that 60, 20 and 20 % are trained, chosen by and tested: the `val` of LIVE, CSIQ and
    TID2013, elsewhere a quarter of the training references. With `train_all` the network is trained on all of a data
    set, and `cross` is `test`. `by="row"` leaks references, to measure the effect. `live_dmos` names LIVE's label file.
    """
    if cross and (cross not in PAIR_SETS or (cross == "demo") != (dataset == "demo")):
        raise DataError(f"cross: got {cross!r} with {dataset!r}, expected another of {', '.join(PAIR_SETS)}, or none")
    types = ALL_TYPES - CROSS_TYPES if cross else ALL_TYPES
    given = {"seed": seed, "by": by} | _labels(dataset, live_dmos)
    side = _loader(PAIR_SETS, dataset, root, {"task": "pairs", "types": types} | (demo or {}), **given)
    if train_all:
        if cross in ("", "demo") or hold_out:
            got = f"got True with cross {cross!r} and hold_out {hold_out}"
            raise DataError(f"train_all: {got}, expected a downloaded data set as cross, and no hold_out")
        whole = load(cross, Path(root) / cross, split="all", **_labels(cross, live_dmos))
        return {"train": side(split="all"), "test": whole}
    sides = {"train": side(split="train"), "test": side(split="test")}
    if hold_out and dataset in ("live", "csiq", "tid2013"):
        sides["selection"] = side(split="val")
    elif hold_out:
        sides |= _held_out(sides["train"], 0.25, seed, by)
    if cross == "demo":
        sides["cross"] = side(split="test", types=CROSS_TYPES)
    elif cross:
        sides["cross"] = load(cross, Path(root) / cross, split="all", **_labels(cross, live_dmos))
    return sides


def topiq(
    dataset: str,
    root: Path | str,
    *,
    task="score",
    trained=True,
    seed=0,
    cross="",
    live_dmos="realigned",
    demo: dict | None = None,
) -> Sides:
    """The sides of TOPIQ: `test`, with `train` for what is trained, and perhaps `cross`.

    `task="score"` takes pairs, see `scored`, also for `cross`; `"preference"` takes triplets of one of
    `PREFERENCE_TESTS`, in the official split. `trained=False` is for LPIPS+: it is tested on all of a data set of
    pairs, and on the demo set on the references that the trained networks are tested on.
    """
    check_choice(("score", "preference"), error=DataError, task=task)
    if cross and (task == "preference" or not trained):
        raise DataError(f"cross: got {cross!r}, expected none: it is for networks trained on scores")
    if task == "score" and trained:
        return scored(dataset, root, seed=seed, cross=cross, live_dmos=live_dmos, demo=demo)
    allowed, kind = (PAIR_SETS, "pairs") if task == "score" else (PREFERENCE_TESTS, "triplets")
    side = _loader(allowed, dataset, root, {"task": kind} | (demo or {}), seed=seed, **_labels(dataset, live_dmos))
    tested = PREFERENCE_TESTS[dataset] if task == "preference" else "test" if dataset == "demo" else "all"
    return ({"train": side(split="train")} if trained else {}) | {"test": side(split=tested)}


def thinned(dataset: IQADataset, count: int) -> IQADataset:
    """So many of a data set's records, evenly spaced; 0: all."""
    if not 0 < count < len(dataset):
        return dataset
    records = [dataset.records[i * len(dataset) // count] for i in range(count)]
    return IQADataset(dataset.name, dataset.split, records, dataset.label)


def scaled(dataset: IQADataset, low: float, high: float) -> IQADataset:
    """The same pairs, with scores mapped linearly from [`low`, `high`] to [0, 1]."""
    records = [replace(record, score=(record.score - low) / (high - low)) for record in dataset.records]
    return IQADataset(dataset.name, dataset.split, records, dataset.label)


def scaled_by_train(sides: Sides) -> Sides:
    """Each side's scores scaled by the lowest and highest of the training side, but for `cross`, kept as it is.

    So is any other data set than the one trained on.
    """
    low, high = map(float, sides["train"].targets.aminmax())
    kept = {side for side, pairs in sides.items() if side == "cross" or pairs.name != sides["train"].name}
    return {side: pairs if side in kept else scaled(pairs, low, high) for side, pairs in sides.items()}


def _loader(allowed: Iterable[str], dataset: str, root: Path | str, demo: dict | None, **options) -> Callable:
    """`load` for one of the data sets allowed, with the split left to choose."""
    check_choice(allowed, error=DataError, dataset=dataset)
    if dataset == "demo":
        return partial(load, "demo", **options | (demo or {}))
    return partial(load, dataset, Path(root) / dataset, **options)


def _labels(dataset: str, live_dmos: str) -> dict[str, str]:
    """The reader's option that names LIVE's label file; other data sets have none."""
    return {"dmos": live_dmos} if dataset == "live" else {}


def _held_out(train: IQADataset, share: float, seed: int, by: str) -> Sides:
    """The training side without a share of it, and that share as `selection`."""
    parts = {"train": 1 - share, "selection": share}
    dealt = {side: deal(train.records, side, parts, seed, by) for side in parts}
    return {side: IQADataset(train.name, side, records, train.label) for side, records in dealt.items()}
