"""The playground without a browser: stills, and widgets whose values are set as a hand would."""

import gc
import io
import weakref
from datetime import UTC, datetime

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iqa_lib import weights
from iqa_lib.backbones import PACKAGED
from iqa_lib.data.base import IQADataset, Label, Pair
from iqa_lib.lab import playground, runs, scoring
from iqa_lib.lab.playground import Playground
from iqa_lib.metrics import srocc
from iqa_lib.models import AHIQ, PRFNet
from iqa_lib.weights import Weights

BLUR, JPEG = ("Gaussian blur", 5), ("JPEG", 5)


def finished(folder, model):
    """A finished run of a random network, with predictions and a figure."""
    data = IQADataset(
        "demo", "test", [Pair(folder / "r.png", folder / "d.png", 1.0, "r", 1.0)], Label("MOS", 1, 5, True)
    )
    predictions = pd.DataFrame({"distorted": list("abcd"), "target": [1, 2, 3, 4], "prediction": [1, 4, 3, 2]})
    run = runs.Run("04_ahiq", {"seed": 0}, folder / "seed0")
    for name, colour in (("training", 0), ("worst_mistakes", 255)):
        path = run.folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), colour).save(path)
    merit = {"srocc AHIQ": srocc([1, 2, 3, 5], [1, 2, 4, 3], list("aabb"))}
    run.finish(model, metrics=merit, predictions=predictions, data={"test": data}, weights=Weights(PACKAGED, "random"))
    return run.folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = AHIQ(cnn="packaged", cnn_weights="random", fusion="cnn", width=1 / 64)
    return finished(tmp_path_factory.mktemp("pair"), model)


@pytest.fixture(scope="module")
def ground(folder):
    return Playground(folder, metrics=["psnr", "gmsd"], scenes=1)


def inside(view, kind):
    """All widgets of a kind in a view, in order."""
    found = [view] if isinstance(view, kind) else []
    return found + [widget for child in getattr(view, "children", ()) for widget in inside(child, kind)]


def test_a_playground_that_another_replaces_is_given_back(folder):
    ground = Playground(folder, metrics=["psnr"], scenes=1)
    ground.pair("coffee", JPEG)
    alive = weakref.ref(ground)
    del ground
    gc.collect()
    assert alive() is None


def test_the_board_holds_the_scores_that_score_gives(ground, folder):
    figure, board = ground.pair("coffee", JPEG)
    images = ground.images["coffee"], ground.distorted("coffee", JPEG)
    assert list(board.index) == ["psnr", "gmsd", "AHIQ (demo run), whole image"]
    for name, score in zip(("psnr", "gmsd", folder), board.score, strict=True):
        assert score == pytest.approx(float(scoring.score(*images, name)), abs=1e-5)
    assert board.better.tolist() == ["higher", "lower", "higher"]
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[:2] == ["reference: coffee", "distorted: JPEG, level 5"]
    assert {"quality f of each place", "attention w: what counts"} <= set(titles)


def test_level_0_is_the_reference_and_a_random_type_keeps_its_places(ground):
    assert ground.distorted("coffee", ("JPEG", 0)) is ground.images["coffee"]
    original = ground.images["coffee"]
    hit = [(ground.distorted("coffee", ("color block", level)) != original).any(-1) for level in (1, 5)]
    again = ground._distort("coffee", ("color block", 5))
    assert np.array_equal(again, ground.distorted("coffee", ("color block", 5)))
    assert hit[1].sum() > hit[0].sum()


def test_a_choice_follows_each_metrics_direction(ground):
    _, table = ground.choice("coffee", ("JPEG", 1), BLUR)
    assert table.loc[["psnr", "gmsd"], "prefers"].tolist() == ["A", "A"]
    _, table = ground.choice("coffee", BLUR, ("JPEG", 1))
    assert table.loc[["psnr", "gmsd"], "P(B closer)"].tolist() == [1.0, 1.0]
    _, table = ground.choice("coffee", BLUR, BLUR)
    assert set(table.prefers) == {"neither"}


def test_a_triplet_network_is_asked_for_its_preference_only(tmp_path, folder):
    triplets = finished(tmp_path, PRFNet(backbone=PACKAGED, weights="random", width=4, hidden=4, se=False))
    with pytest.raises(ValueError, match="name it in `others`"):
        Playground(triplets)
    ground = Playground(folder, metrics=["psnr"], others=[triplets], scenes=1)
    _, table = ground.choice("coffee", JPEG, BLUR)
    assert np.isnan(table.loc["prfnet", "score of A"])
    asked = scoring.prefer(ground.images["coffee"], *(ground.distorted("coffee", x) for x in (JPEG, BLUR)), triplets)
    assert table.loc["prfnet", "P(B closer)"] == asked


def test_spatial_maps_are_those_with_a_place(ground):
    maps = {
        "score": torch.rand(1, 1, 4, 6),
        "weight": torch.rand(1, 1, 4, 6),
        "attention_reference": torch.rand(1, 5, 3, 2, 3),
        "cross_attention_0": torch.rand(1, 4, 2, 3, 2, 3),
        "offsets": torch.rand(1, 18, 4, 6),
        "frp_vector": torch.rand(1, 9),
    }
    found = dict(playground.spatial(maps, most=9))
    assert list(found) == [
        "quality f of each place",
        "attention w: what counts",
        "attention reference",
        "cross attention 0",
    ]
    assert [tuple(values.shape[-2:]) for values, _, _ in found.values()] == [(4, 6), (4, 6), (2, 3), (2, 3)]
    assert [ends for _, _, ends in found.values()] == [(0, 1), (0, 2), (0, 2), (0, 2)]
    assert found["attention reference"][0].mean() == pytest.approx(1)
    looks = maps["cross_attention_0"][0].mean(dim=(0, 1, 2))
    assert torch.allclose(found["cross attention 0"][0], looks / looks.mean())


def test_the_finest_masks_are_shown_first_and_from_0_to_1():
    masks = {f"mask_{i}": torch.rand(1, 1, 16 >> i, 16 >> i) for i in (3, 2, 1, 0)}
    found = dict(playground.spatial(masks))
    assert list(found) == ["mask 0", "mask 1", "mask 2"]
    assert {ends for _, _, ends in found.values()} == {(0, 1)}


def test_where_a_distortion_is_local_titles_give_means_inside_and_outside(ground):
    figure, _ = ground.pair("coffee", ("color block", 5))
    (difference,) = (axis for axis in figure.axes if axis.get_title().startswith("difference"))
    assert difference.get_title().endswith(" inside, 0.00 outside")
    assert difference.collections
    figure, _ = ground.pair("coffee", JPEG)
    titled = [axis for axis in figure.axes if axis.get_title()]
    assert not [axis for axis in titled if "inside" in axis.get_title() or axis.collections]


def test_moving_a_slider_changes_image_and_board(ground):
    view = ground.explore()
    (image,), (level,) = inside(view, widgets.Image), inside(view, widgets.IntSlider)
    (kind,), (reference,) = inside(view, widgets.SelectionSlider), inside(view, widgets.Dropdown)
    status, board = inside(view, widgets.HTML)
    for control, value in ((level, 1), (kind, "white noise"), (reference, "leaves00")):
        before = image.value, board.value
        control.value = value
        assert image.value != before[0]
        assert board.value != before[1]
        assert status.value.endswith(" s")
    figure, table = ground.pair("leaves00", ("white noise", 1))
    assert board.value == playground._table(table)
    assert Image.open(io.BytesIO(image.value)).size == Image.open(io.BytesIO(playground._png(figure))).size


def uploaded(name, image=None, content=b""):
    if image is not None:
        file = io.BytesIO()
        image.save(file, format="PNG")
        content = file.getvalue()
    known = {"name": name, "type": "image/png", "size": len(content), "last_modified": datetime.now(UTC)}
    return (known | {"content": memoryview(content)},)


def test_an_image_of_ones_own_becomes_a_reference_and_a_broken_one_a_message(ground):
    view = ground.explore()
    (upload,), (reference,) = inside(view, widgets.FileUpload), inside(view, widgets.Dropdown)
    status = inside(view, widgets.HTML)[0]
    noise = np.random.default_rng(0).integers(256, size=(900, 300, 3), dtype=np.uint8)
    upload.value = uploaded("tall.png", Image.fromarray(noise))
    assert reference.value == "tall.png"
    assert ground.images["tall.png"].shape == (512, 384, 3)
    upload.value = uploaded("glass.png", Image.new("RGBA", (80, 80), (9, 9, 9, 9)))
    assert "not possible" in status.value
    assert "partly transparent" in status.value
    upload.value = uploaded("page.png", content=b"<html>")
    assert "page.png: cannot be decoded" in status.value
    assert set(reference.options) == set(ground.images)


def test_the_comparison_follows_its_sliders(ground):
    view = ground.compare()
    board = inside(view, widgets.HTML)[1]
    level_a, level_b = inside(view, widgets.IntSlider)
    level_a.value, level_b.value = 0, 5
    assert board.value == playground._table(ground.choice("coffee", ("JPEG", 0), BLUR)[1])


def test_any_run_opens_with_its_figures_and_worst_mistakes(folder):
    merit, mistakes = playground.run_tables(folder, mistakes=2)
    assert merit.loc["srocc AHIQ", "references"] == 2
    assert sorted(mistakes.distorted) == ["b", "d"]
    view = playground.browse({"mine": folder})
    run, figure = inside(view, widgets.Dropdown)
    (image,) = inside(view, widgets.Image)
    assert run.value == folder
    assert image.value == (folder / "figures/worst_mistakes.png").read_bytes()
    figure.value = folder / "figures/training.png"
    assert image.value == (folder / "figures/training.png").read_bytes()
    assert "No finished run" in playground.browse({}).value


def test_a_damaged_run_is_a_message(folder, tmp_path):
    (tmp_path / "run.json").write_text("{")
    view = playground.browse({"mine": folder, "broken": tmp_path})
    run, _ = inside(view, widgets.Dropdown)
    run.value = tmp_path
    assert "is damaged" in inside(view, widgets.HTML)[0].value


def test_a_score_board_needs_metrics_that_are_here(folder, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    monkeypatch.setattr(weights, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(weights.WeightsError, match="The options are"):
        Playground(folder, metrics=["dists"])
