"""The plan of the tables says what is there, what is missing, how much it is and how long it takes."""

import json

import pytest
import timm
from dataset_trees import TREES

from iqa_lib.lab import plan, records, schedule


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with one data set of eight, and a repository without runs and measurements."""
    monkeypatch.setattr("iqa_lib.lab.records.repo_root", lambda: tmp_path)
    monkeypatch.setattr("iqa_lib.lab.schedule.repo_root", lambda: tmp_path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    TREES["kadid10k"](tmp_path / "data/kadid10k")
    return tmp_path / "data"


def line(run, data, measured=None):
    return schedule.line("row", run, "paper", data, measured or {})


@pytest.mark.parametrize(
    ("run", "steps", "trained", "scored"),
    [
        ("03_prfnet/table2_prfblock", 40 * 7631 + 20 * 16864, (40 * 7631 + 20 * 16864) * 48, 5220 * 3),
        ("03_prfnet/table3_mtl", 40 * 7631, 40 * 7631 * 96, 5220 * 3),
        ("05_fr_nr/table2_all", 50 * 1012, 50 * 1012 * 16, (2025 + 23200) * 2),
        ("06_topiq/ablation_full", 20000, 20000 * 32, 2025 * 2),
        ("06_lpips_plus/lpips_layers", 0, 0, 3000 * 2),
        ("01_baselines/clic", 0, 0, 5220 * 3),
        ("02_iqa_tmfm/table2_full", 4 * 24421, 4 * 24421 * 48, 3 * (5220 * 32 + 97686 * 8 + 3 * 24421 * 4)),
        ("02_iqa_tmfm/table2_without_mfm", 3 * 24421, 3 * 24421 * 48, 5220 * 3 * 32 + 3 * 24421 * 12),
    ],
)
def test_steps_and_images_are_those_of_the_row(data, run, steps, trained, scored):
    assert schedule.work(run.split("/")[0], schedule.parameters(run, "paper")) == (steps, trained, scored)
    found = line(run, data)
    assert (found["steps"], found["images trained on"], found["images scored"]) == (steps, trained, scored)


def test_one_data_set_of_eight_is_there(data):
    assert line("06_topiq/ablation_full", data)["data"] == "here"
    assert line("05_fr_nr/table2_all", data)["data"] == "lacks pipal"
    assert line("03_prfnet/table2_fpn", data)["data"] == "lacks bapps, clic, pieapp"
    TREES["clic"](data / "clic")
    (data / "clic/train").rename(data / "elsewhere")
    assert line("02_iqa_tmfm/table2_full", data)["data"] == "lacks clic (train)"
    assert line("01_baselines/clic", data)["data"] == "here"


def test_weights_are_looked_for_and_not_fetched(data, monkeypatch):
    assert line("06_topiq/ablation_full", data)["weights"] == "lacks resnet50.a1_in1k"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: f"/cache/{repo}/{file}")
    assert line("06_topiq/ablation_full", data)["weights"] == "here"
    needed = schedule.networks("02_iqa_tmfm", schedule.parameters("02_iqa_tmfm/table2_cheng2020", "paper"))
    assert needed == ["st-lpips-alex", "lpips-alex", "lpips-vgg", "lpips-squeeze", "dists", "cheng2020-anchor-6"]


def test_the_hub_has_timms_weights_where_they_are_looked_for():
    runs = {run for table in plan.specifications().values() for run in plan.wanted(table, "paper")}
    given = [(run.split("/")[0], schedule.parameters(run, "paper")) for run in sorted(runs)]
    tags = {tag for each in given for tag in schedule.networks(*each) if "." in tag}
    assert len(tags) > 8
    for tag in tags:
        assert timm.get_pretrained_cfg(tag).hf_hub_id == f"timm/{tag}"


def test_gpu_hours_follow_from_what_was_measured(data):
    run = "06_topiq/ablation_full"
    assert line(run, data)["GPU hours"] == "not measured here"
    rates = {"train": {"tf32": 640_000 / 7200, "fp32": 1.0, "bf16": 2.0}, "score": {"fp32": 4050 / 3600, "bf16": 1.0}}
    assert line(run, data, {"networks": {"CFANet": rates}})["GPU hours"] == "3.0"
    assert line(run, data, {"networks": {"CFANet": {"train": rates["train"]}}})["GPU hours"] == "not measured here"
    assert line("01_baselines/kadid10k", data, {"networks": {"CFANet": rates}})["GPU hours"] == "not measured here"


@pytest.mark.parametrize(
    ("changed", "reading", "hours"),
    [
        ({}, 1e9, "6.0"),
        ({"precision": "bf16"}, 1e9, "3.0"),
        ({"precision": "auto"}, 1e9, "3.0"),
        ({"precision": "bf16", "compile": True}, 1e9, "2.0"),
        ({"compile": True}, 1e9, "6.0"),
        ({"precision": "bf16"}, 640_000 / (4 * 3600), "5.0"),
    ],
)
def test_gpu_hours_are_those_of_the_rows_precision_and_of_reading(changed, reading, hours):
    given, hour = schedule.parameters("06_topiq/ablation_full", "paper") | changed, 3600
    train = {"bf16": 640_000 / (2 * hour), "bf16 compiled": 640_000 / hour, "tf32": 640_000 / (5 * hour), "fp32": 1.0}
    rates = {"train": train, "score": {"fp32": 4050 / hour, "bf16": 1.0}, "reading": reading}
    work = schedule.work("06_topiq", given)
    assert schedule.gpu_hours("06_topiq", given, work, {"networks": {"CFANet": rates}}) == hours


def test_the_page_names_what_each_table_waits_for(data):
    place = data.parent / records.folder("paper", "06_topiq/ablation_full", 0)
    place.mkdir(parents=True)
    (place / records.RECORD).write_text("{}")
    (data.parent / "benchmarks").mkdir()
    measured = {"device": "NVIDIA H100", "networks": {"CFANet": {"train": {"tf32": 1000}, "score": {"fp32": 1000}}}}
    (data.parent / schedule.MEASURED).write_text(json.dumps(measured))
    page = schedule.page("paper", data)
    assert "GPU: NVIDIA H100" in page
    prfnet = page.split("PRFNet, Table 2")[1].split("##")[0]
    assert "Waits for: data bapps, clic, pieapp; weights res2net50_26w_4s.in1k; 4 of 4 runs." in prfnet
    assert "| 06_topiq/ablation_full | finished |" in page
    runs = {run for table in plan.specifications().values() for run in plan.wanted(table, "paper")}
    assert all(run in page for run in runs)
    assert f"{len(runs)} runs: 1 finished" in page
    assert "GPU hours for" in page.splitlines()[-1]


def test_the_command_starts_nothing(data, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["schedule", "paper", "--data", str(data)])
    before = sorted(data.parent.rglob("*"))
    schedule.main()
    assert " can start with the data that is there" in capsys.readouterr().out
    assert sorted(data.parent.rglob("*")) == before


@pytest.mark.parametrize("given", [["--data", ""], ["--data", "nowhere"], ["paper", "--data", __file__], ["papr"]])
def test_what_cannot_be_planned_is_refused(monkeypatch, capsys, given):
    monkeypatch.setattr("sys.argv", ["schedule", *given])
    with pytest.raises(SystemExit):
        schedule.main()
    assert ("expected a folder that is there" if "--data" in given else "invalid choice") in capsys.readouterr().err


def test_a_damaged_measurement_is_named(data, monkeypatch, capsys):
    (data.parent / "benchmarks").mkdir()
    (data.parent / schedule.MEASURED).write_text("{")
    monkeypatch.setattr("sys.argv", ["schedule", "paper", "--data", str(data)])
    with pytest.raises(SystemExit):
        schedule.main()
    assert "gpu.json is damaged" in capsys.readouterr().err
