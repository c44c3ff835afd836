"""Which sides TOPIQ gets of which data set: what is trained, what is tested, and that the two share no reference."""

import dataset_trees
import pytest

from iqa_lib.data import DataError
from iqa_lib.data.base import Pair, Triplet
from iqa_lib.data.protocols import scored, topiq

SMALL = {"scenes": 0, "pairs": 2, "triplets": 2}


@pytest.fixture(autouse=True)
def trees(tmp_path, monkeypatch):
    for name in ("kadid10k", "csiq", "bapps", "pieapp"):
        getattr(dataset_trees, name)(tmp_path / name)
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
    trained, untrained = (topiq("demo", trees, task=task, trained=trained, **SMALL) for trained in (True, False))
    assert isinstance(trained["test"].records[0], kind)
    assert list(untrained) == ["test"]
    assert trained["test"].fingerprint() == untrained["test"].fingerprint()


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("bapps", {}, "data set: got 'bapps'"),
        ("kadid10k", {"task": "preference"}, r"TOPIQ's \(task 'preference'\) data set: got 'kadid10k'"),
        ("csiq", {"trained": False, "cross": "live"}, "cross: got 'live'"),
        ("bapps", {"task": "preference", "cross": "csiq"}, "cross: got 'csiq'"),
    ],
)
def test_what_does_not_go_together_is_an_error(trees, dataset, options, message):
    with pytest.raises(DataError, match=message):
        topiq(dataset, trees, **options)


def test_the_demo_set_can_be_split_by_image_to_measure_the_leak(trees):
    sides = {by: scored("demo", trees, by=by, scenes=0, pairs=10) for by in ("reference", "row")}
    shared = {by: set(s["train"].reference_ids) & set(s["test"].reference_ids) for by, s in sides.items()}
    assert not shared["reference"]
    assert len(shared["row"]) > 4
    images = [{record.images for record in sides["row"][side].records} for side in ("train", "test")]
    assert not images[0] & images[1]
    assert len(images[0] | images[1]) == sum(map(len, sides["reference"].values()))
    with pytest.raises(DataError, match="by: got 'image'"):
        scored("demo", trees, by="image", scenes=0, pairs=10)
