"""Every figure on tiny inputs: what its axes say, which colours its maps have, and where they lie."""

import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from iqa_lib import plots
from iqa_lib.data.base import Label, Pair, Triplet
from iqa_lib.metrics import Calibration, Estimate

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.uniform(0.4, 0.6, shape).astype(np.float32)


class Data:
    """A stand-in for `IQADataset` with images in memory."""

    name = "demo"

    def __init__(self, records, higher_is_better=True):
        self.records, self.label = records, Label("MOS" if higher_is_better else "DMOS", 1, 5, higher_is_better)
        self.targets = torch.tensor([record.target for record in records])

    def __len__(self):
        return len(self.records)

    def read(self, index):
        record = self.records[index]
        return *(torch.full((3, 12, 16), 100, dtype=torch.uint8) for _ in record.images), record.target


KINDS = ["JPEG", "lens blur"] * 6
PAIRS = [Pair(Path("r"), Path(f"d{i}"), 1 + i / 3, "leaves", 0.0, kind) for i, kind in enumerate(KINDS)]
TRIPLETS = [Triplet(Path("r"), Path("a"), Path("b"), i / 11, "leaves", 0.0, k, "jitter") for i, k in enumerate(KINDS)]
SCORES = pd.DataFrame({"prediction": draw(12), "target": [p.score for p in PAIRS], "kind": KINDS})
ANSWERS = pd.DataFrame({"prediction": rng.uniform(size=12), "target": [t.p_b for t in TRIPLETS]})
ANSWERS = ANSWERS.assign(kind_a=KINDS, kind_b="jitter")
ESTIMATES = {name: Estimate(value, value - 0.1, value + 0.1, 12, 3) for name, value in {"one": 0.6, "two": 0.7}.items()}
HISTORY = pd.DataFrame({"step": range(4), "loss": [4.0, 3, 2, 1], "lr": [1.0, 1, 0.1, 0.1]})
LINES = pd.DataFrame(
    {
        "row": ["full", "half"] * 2,
        "column": ["SROCC"] * 2 + ["RMSE"] * 2,
        "paper": [0.9, 0.8, np.nan, np.nan],
        "ours": 0.7,
        "low": 0.6,
        "high": 0.8,
    }
)
ABLATIONS = pd.DataFrame(
    {
        "table": "t",
        "row": "half",
        "column": "SROCC",
        "paper": [-0.3, -0.02, 0.004, 0.1],
        "paper_noise": [0.02, 0.02, 0.02, np.nan],
        "paper_paired": [0.02, 0.01, np.nan, np.nan],
    }
)
IMAGES = [draw(3, 12, 16) for _ in range(3)]
NAMED = {"A": IMAGES[1], "B": IMAGES[2]}
MAPS = {"fine": draw(1, 1, 6, 8), "coarse": draw(1, 1, 3, 4)}
PLACES = [(0.25, 0.5), (0.75, 0.75)]

# By function: its arguments, and texts among its titles and labels
FIGURES = {
    "records": ((Data(TRIPLETS), [0, 3]), ["reference leaves", "A: JPEG", "B: jitter", "human: 0.00"]),
    "triplets": ((Data(TRIPLETS), [1], ANSWERS), ["demo set, human: share preferring B (0: A closer, 1: B closer)"]),
    "pairs": ((Data(PAIRS), [0, 3], SCORES), ["lens blur", "demo set, human: MOS (higher is better)"]),
    "ranks": ((Data(PAIRS), [0, 2, 4], {"SSIM": SCORES}), ["reference leaves: score (rank), ✓ = same rank as human"]),
    "labels": ((Data(PAIRS),), ["demo: 12 records", "by type of distortion", "MOS (higher is better)"]),
    "images_and_maps": (
        ({"reference": IMAGES[0]}, {"score": (MAPS["fine"][0, 0], "higher is better", (0.0, 1.0))}),
        ["reference", "score", "higher is better"],
    ),
    "maps_beside": ((NAMED, MAPS, "masks (0 to 1)"), ["masks (0 to 1)", "A", "fine\n6 x 8", "coarse\n3 x 4"]),
    "quality_maps": (
        (IMAGES[:2], MAPS, "MS-SSIM"),
        ["reference", "distorted", "similarity (1 = identical)", "MS-SSIM"],
    ),
    "quality_maps_of_two": (
        (IMAGES[0], NAMED, {"SSIM": {name: list(MAPS.values()) for name in NAMED}}, "similarity"),
        ["reference", "A", "B", f"A\nSSIM 1: mean {MAPS['fine'].mean():.4f}"],
    ),
    "block_attention": (
        (IMAGES[:2], [draw(3, 2, 6, 8), draw(3, 2, 6, 8)], ["reference", "distorted"]),
        ["reference", "distorted", "block 0", "block 2", "attention / mean (1 = uniform)"],
    ),
    "sampling": ((IMAGES[0], np.zeros((18, 3, 4)), PLACES), ["row 0, column 2 of 3 x 4\n3 of 9 taps look outside"]),
    "training": (({"stage 1": SimpleNamespace(history=HISTORY)},), ["stage 1", "step", "loss (lower is better)"]),
    "metrics": ((ESTIMATES, "accuracy", "accuracy (higher is better)", 0.5), ["accuracy", "one", " chance", "0.600"]),
    "semantic_layers": ((ESTIMATES, ESTIMATES["one"], "LPIPS+"), ["SROCC (higher is better)", " plain LPIPS: 0.600"]),
    "forest": (
        (LINES, "Table 1"),
        ["Table 1", "SROCC", "RMSE", "higher is better", "lower is better", "full", "paper"],
    ),
    "paper_differences": ((ABLATIONS, "Ablations"), ["Ablations", "t: half, SROCC"]),
    "scatter": ((Data(PAIRS), {"SSIM": SCORES}, ["SSIM (higher is better)"]), ["MOS (higher is better)"]),
    "srocc_by_kind": (({"SSIM": SCORES}, {"SSIM": -1}), ["JPEG (6)", "lens blur (6)", "SROCC (higher is better)"]),
    "accuracy_by_kind": ((ANSWERS,), ["jitter (12)", "JPEG (6)", "accuracy (higher is better)"]),
    "contributions": ((draw(5, 2, 4), ["frp", "nr"]), ["added to the score, mean over pairs", "scale 4", "nr"]),
    "accuracy_by_crops": (
        (dict(enumerate(ESTIMATES.values(), 1)),),
        ["2AFC accuracy by number of crops per triplet", "1 crop", "2 crops", " chance"],
    ),
    "outputs_by_label": ((draw(12), ANSWERS.target, {"output > 0.5": 0.5}), ["A closer", "B closer", "output > 0.5"]),
    "fusion": ((ANSWERS, ANSWERS), ["fusion corrects 0 answers and breaks 0 of 12", "human answer"]),
    "reliability": (
        (Calibration(*np.array([[0.2, 0.7], [0.1, 0.9], [5, 7]])), "calibration"),
        ["predicted P(B closer)"],
    ),
    "distortions": (
        (rng.integers(256, size=(64, 96, 3), dtype=np.uint8), (0.5, 0.5)),
        ["JPEG2000", "jitter", "undistorted"],
    ),
}


def as_tensors(value):
    """Arguments with a tensor for each float array."""
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return torch.tensor(value).bfloat16().requires_grad_()
    if isinstance(value, dict):
        return {key: as_tensors(entry) for key, entry in value.items()}
    return type(value)(map(as_tensors, value)) if type(value) in (list, tuple) else value


def texts(figure):
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


def test_every_figure_is_tested():
    functions = {name for name, f in inspect.getmembers(plots, inspect.isfunction) if f.__module__ == plots.__name__}
    assert {name for name in functions if not name.startswith("_")} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_say_what_they_show(name):
    arguments, expected = FIGURES[name]
    mine = plt.figure()
    figure = getattr(plots, name)(*arguments)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)
    assert set(expected) <= texts(figure)
    assert not {text for text in texts(figure) if "people" in text or "^" in text}
    box = figure.get_tightbbox()
    assert (box.min > -0.05).all()
    assert (box.max < figure.get_size_inches() + 0.05).all()


@pytest.mark.parametrize("name", [n for n, (given, _) in FIGURES.items() if repr(as_tensors(given)) != repr(given)])
def test_arrays_and_tensors_give_the_same_figure(name):
    arguments, _ = FIGURES[name]
    figures = [getattr(plots, name)(*given) for given in (arguments, as_tensors(arguments))]
    for one, other in zip(*(figure.axes for figure in figures), strict=True):
        for image, twin in zip(one.images, other.images, strict=True):
            np.testing.assert_allclose(image.get_array(), twin.get_array(), atol=0.01)


def test_channels_last_and_uint8_images_are_the_same_images():
    pixels = rng.integers(256, size=(12, 16, 3), dtype=np.uint8)
    same = pixels, torch.tensor(pixels), torch.tensor(pixels).permute(2, 0, 1), pixels.transpose(2, 0, 1) / 255
    shown = [plots.images_and_maps({"image": image}).axes[0].images[0].get_array() for image in same]
    for image in shown:
        np.testing.assert_allclose(image, pixels / 255, atol=1e-6)


def over(figure):
    """Axes with a map over an image."""
    return [axis for axis in figure.axes if len(axis.images) == 2]


def test_attention_lies_exactly_over_its_grey_image_in_units_of_its_mean():
    drawn = over(plots.block_attention(*FIGURES["block_attention"][0]))
    assert drawn
    for axis in drawn:
        grey, values = axis.images
        assert grey.get_array().shape == (12, 16)
        assert values.get_array().shape != (12, 16)
        assert tuple(values.get_extent()) == tuple(grey.get_extent()) == (-0.5, 15.5, 11.5, -0.5)
        assert values.get_alpha() == 0.65
        assert values.get_clim() == (0, 2)
        assert values.get_array().mean() == pytest.approx(1)


def test_the_peak_of_attention_beyond_the_colours_is_in_the_title():
    peaked = np.ones((1, 1, 2, 4), np.float32) * np.array([1, 1, 1, 13])
    figure = plots.block_attention(IMAGES[:1], [np.concatenate([np.ones((1, 1, 2, 4)), peaked])], ["reference"])
    assert {"block 0", "block 1, peak 3.2"} <= texts(figure)


def maps_of(count):
    return {f"map {number}": (draw(1, 1, 6, 8), "", (0.0, 1.0)) for number in range(count)}


@pytest.mark.parametrize(("maps", "rows"), [(3, [2, 3]), (6, [2, 3, 3]), (4, [3, 3]), (1, [3])])
def test_maps_that_fill_their_rows_start_one(maps, rows):
    figure = plots.images_and_maps({"reference": IMAGES[0], "distorted": IMAGES[1]}, maps_of(maps))
    heights = [round(axis.get_position().y0, 3) for axis in figure.axes if axis.get_title()]
    assert [heights.count(height) for height in sorted(set(heights), reverse=True)] == rows


def test_an_outline_lies_around_what_was_distorted_on_a_map_of_any_grid():
    mask = np.zeros((12, 16), bool)
    mask[4:8, 8:16] = True  # the middle third of the rows, the right half
    figure = plots.images_and_maps({"reference": IMAGES[0]}, maps_of(2), outline=mask)
    image, *maps = (axis for axis in figure.axes if axis.get_title())
    assert not image.collections
    for axis in maps:
        (path,) = axis.collections[0].get_paths()
        np.testing.assert_allclose(path.vertices.min(0), (3.5, 1.5), atol=0.3)
        np.testing.assert_allclose(path.vertices.max(0), (7.5, 3.5), atol=0.3)
    nothing = plots.images_and_maps({}, maps_of(1), outline=np.zeros((12, 16), bool))
    assert not nothing.axes[0].collections


def test_one_colour_bar_for_all_maps():
    figure = plots.images_and_maps({}, maps_of(4), bars="figure")
    assert len([axis for axis in figure.axes if not axis.get_title()]) == 1


def test_similarity_maps_share_colours_up_to_1():
    maps = {"one": np.full((1, 1, 3, 3), 0.5), "two": np.full((1, 1, 3, 3), 0.8)}
    figure = plots.quality_maps(IMAGES[:2], maps, "SSIM")
    assert {axis.images[0].get_clim() for axis in figure.axes if "mean" in axis.get_title()} == {(0.5, 1)}
    by_image = {"A": [maps["one"], maps["two"]], "B": [maps["two"], maps["two"]]}
    figure = plots.quality_maps_of_two(IMAGES[0], NAMED, {"SSIM": by_image}, "similarity")
    drawn = [axis.images[0].get_clim() for axis in figure.axes if "mean" in axis.get_title()]
    assert drawn == [pytest.approx(c) for c in [(0.5, 1), (0.8, 1)] * 2]


@pytest.mark.parametrize(
    ("low", "high", "extend"), [(0, 1, "neither"), (0.5, 1, "min"), (0, 0.5, "max"), (0.4, 0.5, "both")]
)
def test_a_colour_bar_shows_where_values_lie_outside_of_it(low, high, extend):
    values = np.linspace(0, 1, 6).reshape(1, 1, 2, 3)
    figure = plots.images_and_maps({}, {"map": (values, "", (low, high))})
    assert figure.axes[0].images[0].get_clim() == (low, high)
    assert figure.axes[0].images[0].colorbar.extend == extend


def test_arrows_lead_from_taps_to_samples():
    offsets = np.zeros((18, 3, 4))
    offsets[8], offsets[9] = 1, -2  # of the middle tap: down, right
    axis = plots.sampling(IMAGES[0], offsets, [(0.5, 1 / 3)]).axes[0]
    assert axis.get_title() == "row 1, column 1 of 3 x 4\n1 of 9 taps look outside"
    arrows = axis.collections[0]
    np.testing.assert_allclose(arrows.XY[4], (6, 6))
    assert (arrows.U[4], arrows.V[4]) == (-8, 4)


def test_records_are_drawn_as_what_they_are():
    assert texts(plots.records(Data(PAIRS), [0])) == texts(plots.pairs(Data(PAIRS), [0]))
    assert texts(plots.records(Data(TRIPLETS), [0], ANSWERS)) == texts(plots.triplets(Data(TRIPLETS), [0], ANSWERS))


def test_labels_of_triplets_and_of_scores_where_lower_was_better():
    assert "times shown, as A or B" in texts(plots.labels(Data(TRIPLETS)))
    assert "score from DMOS (higher is better)" in texts(plots.labels(Data(PAIRS, higher_is_better=False)))


def test_ranks_mark_agreement_with_the_human_rank():
    table = pd.DataFrame({"prediction": [3.0, 1.0, 2.0]})
    notes = [axis.get_xlabel() for axis in plots.ranks(Data(PAIRS), [0, 1, 2], {"MSE": table}, {"MSE": -1}).axes]
    assert notes == ["human: 1.67 (1)\nMSE: 2 (2)", "human: 1.33 (2)\nMSE: 1 (1)", "human: 1 (3)\nMSE: 3 (3) ✓"]


def test_ticks_of_the_papers_differences_are_plain_signed_numbers():
    axis = plots.paper_differences(*FIGURES["paper_differences"][0]).axes[0]
    axis.figure.draw_without_rendering()
    assert [text.get_text() for text in axis.get_xticklabels()] == ["-10", "-5", "-2", "-1", "0", "+1"]
    assert not [text for text in axis.get_xticklabels(minor=True) if text.get_text()]


def test_the_papers_differences_are_a_band_from_independent_to_paired_noise():
    axis = plots.paper_differences(*FIGURES["paper_differences"][0]).axes[0]
    independent, paired = (line.get_xdata().tolist() for line in axis.lines[1:])
    assert independent == pytest.approx([-15, -1, 0.2])
    assert paired == pytest.approx([-15, -2, np.nan], nan_ok=True)


def test_fusion_counts_the_answers_that_change():
    before = pd.DataFrame({"prediction": [0.4, 0.6, 0.6], "target": [1.0, 1.0, 0.0]})
    after = before.assign(prediction=[0.6, 0.4, 0.4])
    assert plots.fusion(before, after).axes[0].get_title() == "fusion corrects 2 answers and breaks 1 of 3"


def test_figures_of_tables_need_no_torch():
    heavy = ["torch", "piq", "iqa_lib.training", "iqa_lib.evaluation", "iqa_lib.data"]
    code = f"import sys, iqa_lib.plots; print(*set({heavy}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
