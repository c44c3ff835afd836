"""What the notebooks share: `iqa_lib.lab.notebook`."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from image_sets import image_set

from iqa_lib.lab import notebook
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
    run = SimpleNamespace(parameters=given, data_root=Path("data"))
    run.arguments_of = lambda function: {"dataset": "demo", "seed": 1, "cross": ""}
    seen = notebook.sides_of(run, lambda **options: options, by="row")
    demo = {"photos": "", "scenes": 2, "pairs": 5, "triplets": 5}
    assert seen == {"dataset": "demo", "root": Path("data"), "seed": 1, "cross": "", "by": "row", "demo": demo}


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
