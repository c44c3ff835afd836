"""What the notebooks share: `iqa_lib.lab.notebook`."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import pytest
import torch
from image_sets import image_set

from iqa_lib import baselines
from iqa_lib.data.base import Label, Pair, Triplet
from iqa_lib.lab import notebook
from iqa_lib.lab.parameters import ParameterError
from iqa_lib.models import prfnet

GIVEN = {"crops": "grid", "crop": 32, "crop_count": 2, "seed": 3}


def test_code_is_the_present_source_below_its_file_and_name():
    shown = notebook.code(prfnet.Gate.forward).data
    assert shown.startswith("```python\n# iqa_lib/models/prfnet.py, Gate.forward\ndef forward(self, x")
    assert ".sigmoid()" in shown


def test_views_are_flipped_in_training_alone(tmp_path):
    sides = dict.fromkeys(("train", "selection", "test", "cross"), image_set(tmp_path, [(40, 56)]))
    run = SimpleNamespace(
        parameters=GIVEN | {"draws": 2, "test_crops": "corners", "test_crop": 16, "test_crop_count": 5}
    )
    views = notebook.views_of(run, sides, flip="both")
    assert {side: (v.flip, v.draws, v.protocol, v.size, v.count) for side, v in views.items()} == {
        "train": ("both", 2, "grid", 32, 2),
        "selection": ("none", 2, "grid", 32, 2),
        "test": ("none", 0, "corners", 16, 5),
        "cross": ("none", 0, "corners", 16, 5),
    }
    assert {view.seed for view in views.values()} == {3}


def test_without_test_crops_whole_images_are_tested_as_they_are(tmp_path):
    """Also those smaller than a training crop."""
    views = notebook.views_of(
        SimpleNamespace(parameters=GIVEN | {"crop": 64}), {"test": image_set(tmp_path, [(56, 40)])}
    )
    assert views["test"].all(0)[0].shape == (1, 3, 40, 56)


def test_metrics_compute_where_the_networks_do(monkeypatch):
    seen = []
    psnr = replace(baselines.BASELINES["psnr"], compute=lambda *pair: seen.append(pair) or torch.tensor(30.0))
    monkeypatch.setitem(baselines.BASELINES, "psnr", psnr)
    monkeypatch.setattr(notebook, "best_device", lambda: torch.device("meta"))
    metric = notebook.loaded_metrics(["psnr"])["psnr"]
    assert metric.score(*torch.rand(2, 1, 3, 8, 8)).item() == 30
    assert [image.device.type for image in seen[0]] == ["meta", "meta"]
    monkeypatch.setattr(notebook, "best_device", lambda: torch.device("cpu"))
    assert notebook.loaded_metrics(["psnr"])["psnr"] is psnr


def test_every_answer_of_a_network_stands_beside_its_predictions():
    table = pd.DataFrame({"target": [0.0, 1.0], "prediction": [0.1, 0.2]})
    answers = {"IQA-TMFM": table} | {name: table.assign(prediction=0.7) for name in ("its network alone", "GMSD")}
    beside = notebook.beside_metrics(table, answers)
    assert list(beside) == ["target", "prediction", "its network alone", "gmsd"]


def test_records_of_one_reference_are_spread_over_it(tmp_path):
    dataset = image_set(tmp_path, [(8, 8)] * 20)
    middle = dataset.reference_ids[10]
    of_it = [index for index, name in enumerate(dataset.reference_ids) if name == middle]
    assert notebook.of_one_reference(dataset, 1) == of_it[:1]
    assert notebook.of_one_reference(dataset, 99) == of_it


def test_a_prediction_of_a_triplet_is_a_probability():
    run, estimate = SimpleNamespace(parameters={"scale": "demo"}), SimpleNamespace(value=0.1)
    scores = pd.DataFrame({"prediction": [0.0, 1.5]})
    notebook.check(run, [None, None], scores, estimate, 0)
    with pytest.raises(AssertionError):
        notebook.check(run, [None, None], scores.assign(a="x.png"), estimate, 0)


def test_sides_get_the_parameters_of_the_protocols_names():
    given = {
        "dataset": "demo",
        "seed": 1,
        "cross": "",
        "lr": 0.1,
        "demo_photos": "",
        "demo_scenes": 2,
        "demo_records": 5,
    }
    run = SimpleNamespace(parameters=given, data_root=Path("data"), split=1)
    run.arguments_of = lambda function: {"dataset": "demo", "seed": 1, "cross": ""}
    seen = notebook.sides_of(run, lambda **options: options, by="row")
    demo = {"photos": "", "scenes": 2, "pairs": 5, "triplets": 5}
    assert seen == {"dataset": "demo", "root": Path("data"), "seed": 1, "cross": "", "by": "row", "demo": demo}


def test_a_batch_larger_than_the_data_stops_before_any_features(tmp_path):
    run = SimpleNamespace(parameters={"batch_size": 4}, data_root=Path("data"), split=1, arguments_of=lambda _: {})
    sides = {"train": image_set(tmp_path, [(40, 56)] * 3), "test": image_set(tmp_path, [(40, 56)])}
    with pytest.raises(ParameterError, match="batch_size: got 4, expected at most 3, the records of side 'train'"):
        notebook.sides_of(run, lambda **_: sides)
    run.parameters["batch_size"] = 3
    assert notebook.sides_of(run, lambda **_: sides) is sides


@pytest.mark.parametrize(("scale", "max_steps", "fails"), [("smoke", 0, True), ("smoke", 5, False), ("demo", 0, False)])
def test_only_a_whole_smoke_run_has_to_learn(scale, max_steps, fails):
    run = SimpleNamespace(parameters={"scale": scale, "max_steps": max_steps})
    estimate, dataset = SimpleNamespace(value=0.1), [None, None]
    predictions = pd.DataFrame({"prediction": [0.0, 1.0]})
    if fails:
        with pytest.raises(AssertionError, match=r"expected more than 0\.2"):
            notebook.check(run, dataset, predictions, estimate, 0.2)
    else:
        notebook.check(run, dataset, predictions, estimate, 0.2)


# --- Maps beside what was distorted


SCENE = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


def with_blocks(count, image=SCENE):
    """An image with white 8x8 blocks along its top."""
    blocks = image.clone()
    for number in range(count):
        blocks[:, 8:16, 16 * number : 16 * number + 8] = 1
    return blocks


class InMemory(list):
    """A stand-in for `IQADataset`: images and target of each record."""

    name, label = "demo", Label("MOS", 1, 5, True)

    def __init__(self, records, images):
        super().__init__(
            (*of_record, torch.tensor(record.target)) for record, of_record in zip(records, images, strict=True)
        )
        self.records, self.targets = records, torch.tensor([record.target for record in records])


def pairs(kinds):
    return [Pair(Path("r"), Path("d"), float(i), "leaves", 0.0, kind) for i, kind in enumerate(kinds)]


def triplets(*kinds):
    return [Triplet(Path("r"), Path("a"), Path("b"), 0.0, "leaves", 0.0, *pair) for pair in kinds]


def test_touched_places_are_those_that_differ():
    mask = notebook.touched(SCENE, with_blocks(2))
    assert mask.sum() == 2 * 8 * 8
    assert mask[8:16, 0:8].all()
    assert not notebook.touched(SCENE, SCENE).any()


def test_the_stretch_to_the_full_range_touches_nothing():
    stretched = (SCENE - SCENE.min()) / (SCENE.max() - SCENE.min())
    assert not notebook.touched(SCENE, stretched).any()
    assert notebook.touched(SCENE, with_blocks(1, stretched)).sum() == 64


def test_of_two_images_the_locally_distorted_one_is_meant():
    blocks, brighter = with_blocks(1), (SCENE + 0.05).clamp(0, 1)
    for distorted in ((blocks, brighter), (brighter, blocks), (SCENE, blocks)):
        assert torch.equal(notebook.touched(SCENE, *distorted), notebook.touched(SCENE, blocks))
        assert notebook.most_local(SCENE, *distorted) is blocks


def test_what_is_all_over_an_image_has_no_outline():
    assert notebook.outline(SCENE, 1 - SCENE) is None
    assert notebook.outline(SCENE, with_blocks(1)).sum() == 64


def test_the_clearest_local_distortion_is_chosen():
    kinds = ["JPEG", "color block", "color block", "color block", "non-eccentricity patch"]
    brighter = (SCENE + 0.01).clamp(0, 1)
    images = [1 - SCENE, with_blocks(2), with_blocks(4), with_blocks(4, brighter), with_blocks(4)]
    dataset = InMemory(pairs(kinds), [(SCENE, image) for image in images])
    assert notebook.local(dataset) == 2
    both = triplets(("JPEG", "jitter"), ("color block", "jitter"), ("blur", "color block"))
    noisy = (SCENE + 0.1 * torch.randn(SCENE.shape)).clamp(0, 1)
    trios = [(SCENE, SCENE, SCENE), (SCENE, with_blocks(4), noisy), (SCENE, SCENE, with_blocks(2))]
    assert notebook.local(InMemory(both, trios)) == 2


def test_without_a_local_distortion_a_bad_image_is_chosen():
    dataset = InMemory(pairs(["JPEG"] * 6), [(SCENE, 1 - SCENE)] * 6)
    assert notebook.local(dataset) == notebook.at_share(dataset, 1 / 6) == 1


def test_means_inside_and_outside_of_what_was_distorted():
    fine = 1 + 3 * notebook.touched(SCENE, with_blocks(2)).float()
    coarse = torch.full((1, 2, 6, 8), 0.5)
    coarse[:, 1, 1, [0, 2]] = 2.5  # the places of both blocks, in one of two channels
    table = notebook.inside_outside([SCENE, with_blocks(2)], {"fine": fine, "coarse": coarse})
    assert table.loc["fine"].tolist() == [4, 1, 4]
    assert table.loc["coarse"].tolist() == [1.5, 0.5, 3]


def test_a_place_of_a_coarse_map_is_inside_if_any_of_its_pixels_is():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3, 3] = True
    assert notebook.on_grid_of(torch.zeros(1, 1, 2, 2), mask).tolist() == [[True, False], [False, False]]


def test_relative_maps_are_in_units_of_their_mean():
    values, unit, ends = notebook.relative(torch.full((1, 3, 4, 4), -7.0))
    assert torch.equal(values, torch.ones(4, 4))
    assert unit == "of its mean (1 = flat)"
    assert ends == (0, 2)
    assert notebook.relative(torch.ones(3, 2, 2), to=torch.full((2, 3, 2, 2), 4.0))[0].mean() == 0.25
    attention = torch.rand(1, 4, 2, 3, 2, 3)
    looks = attention[0].mean((0, 1, 2))
    torch.testing.assert_close(notebook.relative(attention)[0], looks / looks.mean())


def test_titles_say_what_was_done():
    assert notebook.titles(pairs(["JPEG"])[0]) == ["reference leaves", "JPEG"]
    assert notebook.titles(pairs([""])[0]) == ["reference leaves", "distorted"]
    assert notebook.titles(triplets(("JPEG", "jitter"))[0]) == ["reference leaves", "A: JPEG", "B: jitter"]
    assert notebook.titles(triplets(("", ""))[0]) == ["reference leaves", "A", "B"]


def test_shown_maps_are_saved_and_give_their_means(monkeypatch):
    shown, saved = [], {}
    monkeypatch.setattr(notebook, "display", shown.append)
    run = SimpleNamespace(save_figure=lambda figure, name: saved.setdefault(name, figure))
    images = {"reference": SCENE, "distorted": with_blocks(1)}
    table = notebook.show_maps(run, "maps", images, {"mask": (torch.ones(1, 1, 6, 8), "", (0, 1))})
    assert shown == [saved["maps"]]
    assert [axis.get_title() for axis in saved["maps"].axes[:3]] == ["reference", "distorted", "mask"]
    assert saved["maps"].axes[2].collections
    assert table.loc["mask"].tolist() == [1, 1, 1]
