"""Notebooks as a user runs them: by papermill, on data in the true layouts."""

import json

import dataset_trees

from iqa_lib import runs


def test_the_papers_configuration_of_prfnet_takes_a_step(tmp_path, monkeypatch):
    """SE-Res2Net50, 448 windows, all three data sets read from their own layouts; only the scale of things is cut."""
    monkeypatch.setattr(dataset_trees, "PNG", dataset_trees.encoded((64, 64)))
    for name in ("clic", "bapps", "pieapp"):
        getattr(dataset_trees, name)(tmp_path / "data" / name)
    parameters = runs.read_parameters(runs.repo_root() / "params/03_prfnet/paper.yaml") | {
        "row": "dry_run",
        "scale": "test",
        "data_root": str(tmp_path / "data"),
        "weights": "random",
        "batch_size": 2,
        "accumulate": 2,
        "max_steps": 1,
        "max_batch": 1,
        "workers": 0,
    }
    runs.execute("03_prfnet", tmp_path / "out.ipynb", parameters)
    record = json.loads((runs.repo_root() / "outputs/test/03_prfnet/dry_run/seed0/run.json").read_text())
    assert record["weights"] == {"network": "res2net50_26w_4s.in1k", "source": "random", "file": "", "sha256": ""}
    assert {name: step["steps"] for name, step in record["steps"].items()} == {"step 1": 1, "step 2": 1}
    assert record["data"]["fine"]["name"] == "bapps+pieapp"
