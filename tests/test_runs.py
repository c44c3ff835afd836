"""Runs, their records, the tables made of them, and the workflow that plans them."""

import json
import os
import re
import shlex
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from filelock import FileLock
from torch import nn

from iqa_lib.data.base import IQADataset, Label, Triplet
from iqa_lib.files import read_json, write_json
from iqa_lib.lab import execute, parameters, plan, records, runs, tables
from iqa_lib.lab.execute import one_gpu
from iqa_lib.lab.parameters import ParameterError
from iqa_lib.losses import preference_bce, preference_mse
from iqa_lib.metrics import two_afc_accuracy
from iqa_lib.training import Task
from iqa_lib.weights import Weights

ROOT = runs.repo_root()
ROWS = sorted(path for path in (ROOT / "params").glob("*/*.yaml"))


class Noise(torch.utils.data.Dataset):
    """Four vectors with labels, indexed by `(epoch, index)` as `fit` does."""

    def __init__(self, tmp_path):
        image = tmp_path / "x.png"
        image.exists() or image.touch()
        records = [Triplet(image, image, image, float(i % 2), f"r{i}", 0.0) for i in range(4)]
        self.dataset = IQADataset("noise", "train", records, Label("votes", 0, 1, True))

    def __len__(self):
        return 4

    def __getitem__(self, key):
        return torch.full((3,), float(key[1])), torch.tensor(float(key[1] % 2))

    def fingerprint(self):
        return self.dataset.fingerprint()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A repository of its own for outputs, with the real notebooks and params."""
    for name in ("notebooks", "params"):
        (tmp_path / name).symlink_to(ROOT / name)
    for module in (records, runs, tables):
        monkeypatch.setattr(module, "repo_root", lambda: tmp_path)
    return tmp_path


def test_start_sees_what_papermill_injected(here, capsys):
    namespace = {"In": ["", "scale: str = 'smoke'", "# Parameters\nstgae = 2\n"], "stgae": 2}
    with pytest.raises(ParameterError, match="stgae"):
        runs.start("03_prfnet", namespace)
    run = runs.start("03_prfnet", {"row": "mine", "seed": 3, "unrelated": 1})
    assert run.folder == here / "outputs/smoke/03_prfnet/mine/seed3"
    assert capsys.readouterr().out.splitlines() == [
        "outputs/smoke/03_prfnet/mine/seed3",
        "  row = 'mine'",
        "  seed = 3",
        "  all other parameters at their defaults",
    ]
    assert len(run.parameters) == len(parameters.declared("03_prfnet"))


def test_a_step_is_shared_by_what_decides_it_and_by_nothing_else(here, capsys):
    def run_step(row="a", seed=0, loss=preference_bce, **changed):
        run = runs.start("03_prfnet", {"row": row, "seed": seed})
        model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
        options = {"epochs": 2, "batch_size": 2, "lr": 0.1} | changed
        return run.fit("step 1", model, [Task(Noise(here), loss)], note="from nothing", **options), model

    first, model = run_step()
    assert not first.loaded
    assert "from nothing" in capsys.readouterr().out
    again, same = run_step(row="b")
    assert again.loaded
    assert all(torch.equal(x, y) for x, y in zip(model.parameters(), same.parameters(), strict=True))
    assert "from nothing" not in capsys.readouterr().out
    assert not run_step(lr=0.2)[0].loaded
    assert not run_step(seed=1)[0].loaded
    assert not run_step(loss=preference_mse)[0].loaded


def test_a_selection_makes_another_step(here):
    data, other = Noise(here), Noise(here)
    other.dataset = IQADataset("other", "train", data.dataset.records, data.dataset.label)
    bce, mse, elsewhere = Task(data, preference_bce), Task(data, preference_mse), Task(other, preference_bce)
    variants = [([bce], None), ([bce], bce), ([bce], mse), ([bce], elsewhere), ([bce, bce], None)]

    def loaded(tasks, select) -> bool:
        run = runs.start("03_prfnet", {"row": "a", "seed": 0})
        model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
        result = run.fit("step 1", model, tasks, select=select, epochs=2, batch_size=2, lr=0.1)
        assert ("selection" in result.history) == bool(select)
        return result.loaded

    assert [loaded(*variant) for variant in variants] == [False] * 5
    assert [loaded(*variant) for variant in variants] == [True] * 5


def test_the_record_tells_what_the_number_stands_on(here):
    run = runs.start("03_prfnet", {"row": "table2_fpn", "scale": "demo"})
    data = {"test": Noise(here).dataset}
    estimate = two_afc_accuracy([0.9, 0.8, 0.2, 0.9], [1, 1, 0, 0], list("aabb"))
    path = run.finish(
        nn.Linear(2, 1),
        metrics={"accuracy PRFNet": estimate},
        predictions=pd.DataFrame({"prediction": [0.5]}),
        data=data,
        weights=Weights("net", "packaged", "file", "0123456789"),
    )
    record = json.loads(path.read_text())
    assert record["metrics"]["accuracy PRFNet"]["value"] == 0.75
    assert record["data"]["test"]["fingerprint"] == data["test"].fingerprint()
    assert record["weights"]["sha256"] == "0123456789"
    assert {"commit", "dirty", "versions", "device", "seconds", "peak_memory_bytes", "parameters", "code"} <= set(
        record
    )
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.safetensors", "predictions.csv", "run.json"]


def test_a_run_finds_the_predictions_of_other_rows_on_the_same_records(here):
    data, table = Noise(here).dataset, pd.DataFrame({"side": ["test", "cross"], "prediction": [0.5, 0.1]})
    for row in ("a", "b"):
        run = runs.start("03_prfnet", {"row": row, "scale": "demo"})
        run.finish(metrics={}, predictions=table, data={"test": data}, weights={})
    found = run.other_predictions(data, "test")
    assert {row: frame.prediction.tolist() for row, frame in found.items()} == {"a": [0.5]}
    assert not run.other_predictions(data, "cross")
    assert [folder.parent.name for folder in records.finished("demo")] == ["a", "b"]
    assert records.read("outputs/demo/03_prfnet/a/seed0")["parameters"]["row"] == "a"
    with pytest.raises(ValueError, match=r"holds no run.json, expected .*outputs/<scale>/<notebook>/<row>/seed<k>"):
        records.read("outputs/demo/03_prfnet/c/seed0")


def test_a_run_without_a_model_records_the_weights_of_each_network(here):
    run = runs.start("03_prfnet", {"row": "none", "scale": "demo"})
    path = run.finish(
        metrics={},
        predictions=pd.DataFrame({"prediction": [0.5]}),
        data={"test": Noise(here).dataset},
        weights={"lpips-alex": Weights("lpips-alex", "file", "x.pth", "0123")},
    )
    assert json.loads(path.read_text())["weights"]["lpips-alex"]["sha256"] == "0123"
    assert sorted(file.name for file in path.parent.iterdir()) == ["predictions.csv", "run.json"]


def test_a_table_sets_the_paper_beside_ours_and_shows_rows_that_were_not_run(here):
    test_the_record_tells_what_the_number_stands_on(here)
    path = here / "outputs/demo/03_prfnet/table2_fpn/seed0/run.json"
    record = read_json(path)
    record["data"]["test"] |= {"name": "clic", "split": "validation"}
    write_json(path, record)
    text = tables.write("prfnet_table2", "demo").read_text()
    fpn, bifpn = (
        next(line for line in text.splitlines() if line.startswith(f"| {name} ")) for name in ("FPN", "BiFPN")
    )
    assert "| 0.741 | 0.750 [" in fpn
    assert "not run" in bifpn
    assert "demo numbers" not in text
    assert (here / "outputs/demo/tables/prfnet_table2.png").exists()


def test_a_demo_number_is_called_one_and_has_a_column_of_its_own(here):
    test_the_record_tells_what_the_number_stands_on(here)
    path = here / "outputs/demo/03_prfnet/table2_fpn/seed0/run.json"
    record = read_json(path)
    record["data"]["test"]["name"] = "demo"
    write_json(path, record)
    text = tables.write("prfnet_table2", "demo").read_text()
    assert "demo numbers" in text
    assert "| method | accuracy on CLIC-V: paper | accuracy, demo set: ours |" in text
    assert "| demo, " in text


def run_command(monkeypatch, *arguments):
    """`python -m iqa_lib.lab.execute`, in this process; gives its last words."""
    monkeypatch.setattr(sys, "argv", ["execute", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        execute.main()
    return end.value.code


def test_the_command_line_refuses_an_unknown_key_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "row.yaml").write_text("stgae: 2\n")
    assert "did you mean stage?" in run_command(monkeypatch, "03_prfnet", tmp_path / "out.ipynb", tmp_path / "row.yaml")
    assert not (tmp_path / "out.ipynb").exists()
    assert (tmp_path / "failed.txt").read_text().startswith("ParameterError: parameters of 03_prfnet: stgae")


def test_a_cell_that_fails_leaves_its_reason_in_one_line(tmp_path, monkeypatch):
    cells = [nbformat.v4.new_code_cell("seed: int = 0  # [0, inf) help"), nbformat.v4.new_code_cell("[][\n    seed]")]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "notebooks/short.ipynb")
    for module in (execute, parameters):
        monkeypatch.setattr(module, "repo_root", lambda: tmp_path)
    assert "IndexError" in run_command(monkeypatch, "short", tmp_path / "run.ipynb", "--seed", "3")
    assert (tmp_path / "failed.txt").read_text() == "IndexError: list index out of range\n"
    assert "seed = 3" in (tmp_path / "run.ipynb").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["failed.txt", "notebooks", "run.ipynb"]


def test_a_row_for_its_table_alone_leaves_out_the_figures(tmp_path, monkeypatch):
    sources = ["seed: int = 0  # [0, inf) help", "drawn = 'drawn'", "'drawn' in globals()"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"], cells[1].metadata["tags"] = ["parameters"], [execute.FIGURE]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "notebooks/short.ipynb")
    for module in (execute, parameters):
        monkeypatch.setattr(module, "repo_root", lambda: tmp_path)
    for table_only in (True, False):
        execute.execute("short", tmp_path / "run.ipynb", {}, table_only=table_only)
        shown = nbformat.read(tmp_path / "run.ipynb", 4).cells[-1].outputs[0].data["text/plain"]
        assert shown == str(not table_only)


def test_runs_that_go_on_at_once_have_a_gpu_each(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with FileLock(tmp_path / "gpu-3.lock"), one_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    with one_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with FileLock(tmp_path / "gpu-3.lock"), one_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_the_machines_gpus_are_counted_where_none_are_chosen(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    lister = tmp_path / "nvidia-smi"
    lister.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: a)'\necho 'GPU 1: B (UUID: b)'\n")
    lister.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path))
    with FileLock(tmp_path / "gpu-0.lock"), one_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    "options", [[], ["--profile", "profiles/slurm", "--config", "scale=paper", "seeds=2", "data=/some where's"]]
)
def test_the_workflow_plans_every_run_of_every_table(options):
    scale = "paper" if options else "demo"
    call = [sys.executable, "-m", "snakemake", "--cores", "2", "--dry-run", "--printshellcmds", "--forceall", *options]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    specified = plan.specifications()
    least = 2 if options else 1
    trainings = {training for table in specified.values() for training in plan.trainings(table, scale, least)}
    assert done.stderr.count("iqa_lib.lab.execute") + done.stdout.count("iqa_lib.lab.execute") == len(trainings)
    for run, seed in trainings:
        command = f"iqa_lib.lab.execute {run.split('/')[0]} outputs/{scale}/{run}/seed{seed}/run.ipynb"
        line = next(line for line in (done.stdout + done.stderr).splitlines() if command in line)
        assert ("--table-only" in line) != plan.draws_all(run, seed, scale), line
    assert f"iqa_lib.lab.report {scale}" in done.stdout + done.stderr
    quoted = shlex.quote("/some where's")
    assert (f"--seed 1 --data-root {quoted}" in done.stdout + done.stderr) == bool(options)


def test_counts_say_which_data_sets_are_not_found(here):
    text = tables.write("prfnet_table1", "demo").read_text()
    assert text.count("not found") == 4
    assert "122106" in text


def test_counts_look_where_data_says(here, monkeypatch):
    seen = []
    monkeypatch.setattr("iqa_lib.data.load", lambda name, root, **_: seen.append(root) or Noise(here).dataset)
    (here / "my sets" / "clic").mkdir(parents=True)
    monkeypatch.setenv(records.DATA, str(here / "my sets"))
    text = tables.write("prfnet_table1", "demo").read_text()
    assert set(seen) == {here / "my sets" / "clic"}
    assert "| 4 |" in text


def test_every_row_of_every_table_has_its_file_and_every_file_its_row():
    specified = yaml.safe_load((ROOT / "params" / "tables.yaml").read_text())
    parts = [part for table in specified.values() for part in table.get("rows", []) + table.get("columns", [])]
    wanted = {part["run"] for part in parts if "run" in part}
    wanted |= {run for part in parts for run in (*part.get("runs", {}).values(), *part.get("ensemble", []))}
    files = {f"{file.parent.name}/{file.stem}" for file in ROWS}
    profiles = {name for name in files if name.endswith(("/demo", "/paper", "/official_code"))}
    assert wanted <= files
    assert files - profiles <= wanted


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_executed_thin_and_light(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert path.stat().st_size < 2_000_000
    assert all(cell.execution_count for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    for cell in cells:
        if "parameters" not in cell.metadata.get("tags", []):
            assert cell.source.count("\n") < 25, cell.source
            assert "class " not in cell.source
            assert "def " not in cell.source


def test_every_interval_in_the_results_comes_from_the_recorded_tables():
    results, recorded = ((ROOT / "docs" / name).read_text() for name in ("results.md", "demo_results.md"))
    intervals = re.findall(r"[+-]?\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]", results)
    assert len(intervals) >= 15, "the five papers, and what they are minus SSIM and GMSD"
    assert not [interval for interval in intervals if interval not in recorded]
