"""Which sides each paper gets of which data set, and that what is trained and what is tested share no reference."""

from itertools import pairwise

import dataset_trees
import pytest

from iqa_lib.data import DataError, demo, live, sides_table
from iqa_lib.data.base import Pair, Triplet
from iqa_lib.data.protocols import iqa_tmfm, prfnet, scaled_by_train, scored, thinned, topiq

SMALL = {"scenes": 0, "pairs": 2, "triplets": 2}


@pytest.fixture(autouse=True)
def trees(tmp_path, monkeypatch):
    for name in ("kadid10k", "csiq", "live", "pipal", "bapps", "pieapp", "clic"):
        getattr(dataset_trees, name)(tmp_path / name)
    monkeypatch.setattr(live, "FOLDERS", dataset_trees.LIVE_FOLDERS)
    monkeypatch.setattr(demo, "make", lambda *_: None)  # records without images
    return tmp_path


def splits(sides):
    return {side: (dataset.name, dataset.split) for side, dataset in sides.items()}


def test_a_trained_network_is_tested_on_references_of_its_own_and_across(trees):
    sides = topiq("kadid10k", trees, cross="csiq")
    assert splits(sides) == {
        "train": ("kadid10k", "train"),
        "test": ("kadid10k", "test"),
        "cross": ("csiq", "all"),
    }
    assert not set(sides["train"].reference_ids) & set(sides["test"].reference_ids)


def test_what_is_not_trained_is_tested_on_everything(trees):
    sides = topiq("csiq", trees, trained=False)
    assert splits(sides) == {"test": ("csiq", "all")}
    assert len(sides["test"]) == 15


@pytest.mark.parametrize(("dataset", "tested"), [("bapps", "val"), ("pieapp", "test")])
def test_preferences_have_their_official_split(trees, dataset, tested):
    sides = topiq(dataset, trees, task="preference")
    assert splits(sides) == {"train": (dataset, "train"), "test": (dataset, tested)}
    assert isinstance(sides["test"].records[0], Triplet)
    assert splits(topiq(dataset, trees, task="preference", trained=False)) == {"test": (dataset, tested)}


@pytest.mark.parametrize(("task", "kind"), [("score", Pair), ("preference", Triplet)])
def test_on_the_demo_set_all_methods_are_tested_on_the_same_records(trees, task, kind):
    trained, untrained = (topiq("demo", trees, task=task, trained=trained, demo=SMALL) for trained in (True, False))
    assert isinstance(trained["test"].records[0], kind)
    assert list(untrained) == ["test"]
    assert trained["test"].fingerprint() == untrained["test"].fingerprint()


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("bapps", {}, "dataset: got 'bapps', expected one of 'demo', 'pipal'"),
        ("kadid10k", {"task": "preference"}, "dataset: got 'kadid10k', expected one of 'demo', 'bapps'"),
        ("csiq", {"task": "scores"}, "task: got 'scores', expected one of 'score', 'preference'"),
        ("csiq", {"trained": False, "cross": "live"}, "cross: got 'live'"),
        ("bapps", {"task": "preference", "cross": "csiq"}, "cross: got 'csiq'"),
    ],
)
def test_what_does_not_go_together_is_an_error(trees, dataset, options, message):
    with pytest.raises(DataError, match=message):
        topiq(dataset, trees, **options)


@pytest.mark.parametrize("options", [{}, {"cross": "csiq", "hold_out": True}])
def test_training_on_all_of_a_data_set_needs_another_to_test_on(trees, options):
    with pytest.raises(DataError, match="train_all: got True with cross"):
        scored("pipal", trees, train_all=True, **options)


def test_what_is_tested_on_another_data_set_keeps_its_scores(trees):
    raw = scored("pipal", trees, train_all=True, cross="csiq")
    sides = scaled_by_train(raw)
    assert sides["train"].targets.aminmax() == (0, 1)
    assert sides["test"] is raw["test"]


@pytest.mark.parametrize(("dmos", "shift"), [("realigned", 0.0), ("original", 0.5)])
@pytest.mark.parametrize(("protocol", "side"), [(scored, "cross"), (topiq, "cross"), (topiq, "test")])
def test_the_label_file_of_live_can_be_chosen(trees, protocol, side, dmos, shift):
    where = ("kadid10k", {"cross": "live"}) if side == "cross" else ("live", {"trained": False})
    default, chosen = (protocol(where[0], trees, **where[1], **more)[side] for more in ({}, {"live_dmos": dmos}))
    assert (chosen.targets - default.targets).tolist() == pytest.approx([shift] * len(default), abs=1e-4)


def test_the_demo_set_can_be_split_by_image_to_measure_the_leak(trees):
    sides = {by: scored("demo", trees, by=by, demo={"scenes": 0, "pairs": 10}) for by in ("reference", "row")}
    shared = {by: set(s["train"].reference_ids) & set(s["test"].reference_ids) for by, s in sides.items()}
    assert not shared["reference"]
    assert len(shared["row"]) > 4
    images = [{record.images for record in sides["row"][side].records} for side in ("train", "test")]
    assert not images[0] & images[1]
    assert len(images[0] | images[1]) == sum(map(len, sides["reference"].values()))
    with pytest.raises(DataError, match="by: got 'image'"):
        scored("demo", trees, by="image", demo={"scenes": 0, "pairs": 10})


@pytest.mark.parametrize(
    ("protocol", "dataset", "options", "expected"),
    [
        (prfnet, "demo", {}, {"coarse": 16, "fine": 16, "test": 8}),
        (prfnet, "clic", {}, {"coarse": 28, "fine": 23, "test": 6}),
        (prfnet, "clic", {"clean": True}, {"coarse": 28, "fine": 13, "test": 6}),
        (iqa_tmfm, "demo", {}, {"train": 16, "test": 8}),
        (iqa_tmfm, "clic", {"hold_out": True}, {"train": 22, "selection": 6, "test": 6}),
        (scored, "demo", {"cross": "demo"}, {"train": 16, "test": 8, "cross": 8}),
        (scored, "csiq", {"hold_out": True}, {"train": 9, "test": 3, "selection": 3}),
        (scored, "pipal", {"hold_out": True}, {"train": 9, "test": 3, "selection": 3}),
        (scored, "pipal", {"train_all": True, "cross": "csiq"}, {"train": 15, "test": 15}),
        (topiq, "pieapp", {"task": "preference"}, {"train": 4, "test": 2}),
    ],
)
def test_the_table_of_sides_counts_what_each_paper_gets(trees, protocol, dataset, options, expected):
    sides = protocol(dataset, trees, demo={"scenes": 4, "pairs": 2, "triplets": 2}, **options)
    table = sides_table(sides)
    assert list(table) == ["side", "data set", "records", "references", "label"]
    assert dict(zip(table["side"], table["records"], strict=True)) == expected
    for row in table.itertuples(index=False):
        side = sides[row.side]
        assert tuple(row)[1:] == (side.name, len(side), len(set(side.reference_ids)), side.label.name)


def test_a_cross_test_on_the_demo_set_has_types_never_trained_on(trees):
    sides = scored("demo", trees, cross="demo", demo=SMALL | {"pairs": 0})
    types = {side: {pair.kind for pair in dataset.records} for side, dataset in sides.items()}
    assert len(types["train"]) == 18
    assert len(types["cross"]) == 7
    assert types["train"] == types["test"]
    assert not types["train"] & types["cross"]
    assert set(sides["cross"].reference_ids) == set(sides["test"].reference_ids)


def test_thinned_records_are_evenly_spaced():
    whole = demo.load(split="train", scenes=0, triplets=4)
    some = thinned(whole, 7)
    places = [whole.records.index(record) for record in some.records]
    assert len(places) == 7
    assert {b - a for a, b in pairwise(places)} <= {len(whole) // 7, len(whole) // 7 + 1}
    assert thinned(whole, 0) is thinned(whole, len(whole)) is whole
