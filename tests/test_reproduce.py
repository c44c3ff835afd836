"""`make reproduce` as it is seen: what was found, verdicts, the report, what is not run, and the lines that show it."""

import io
import json
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest
import synthetic_runs

from iqa_lib.lab import findings, plan, records, report, reproduce, runs, tables
from iqa_lib.progress import PLACE, progress

ROOT = runs.repo_root()
NOTHING = [sys.executable, "-c", "pass"]
FULL = "03_prfnet/table2_prfblock"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A repository of its own for outputs, with the real notebooks and params."""
    for name in ("notebooks", "params"):
        (tmp_path / name).symlink_to(ROOT / name)
    for module in (plan, records, report, reproduce, tables):
        if hasattr(module, "repo_root"):
            monkeypatch.setattr(module, "repo_root", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def whole_demo(here):
    """All runs of a demo but one that failed; full models are better than others."""
    wanted = {training for table in plan.specifications().values() for training in plan.trainings(table, "demo", 1)}
    for run, seed in wanted - {("03_prfnet/table2_fpn", 0)}:
        synthetic_runs.write_run(here, "demo", run, seed, 0.4 if run in plan.findings("demo").values() else 0.9)
    failed = here / records.folder("demo", "03_prfnet/table2_fpn", 0)
    failed.mkdir(parents=True)
    (failed / records.FAILED).write_text("ValueError: no luck\n")
    return here


def test_full_models_have_three_trainings_at_demo_scale_and_come_first():
    assert list(plan.seeds(FULL, "demo", 1)) == [0, 1, 2]
    assert list(plan.seeds(FULL, "demo", 5)) == [0, 1, 2, 3, 4]
    assert list(plan.seeds(FULL, "paper", 1)) == list(plan.seeds("03_prfnet/table2_fpn", "demo", 1)) == [0]
    order = [plan.priority(run, seed, "demo") for run, seed in ((FULL, 0), (FULL, 1), ("03_prfnet/table2_fpn", 0))]
    assert order == sorted(order, reverse=True)
    assert sorted(plan.findings("demo")) == ["AHIQ", "CFANet", "FR+NR", "IQA-TMFM", "PRFNet"]
    assert plan.draws_all(FULL, 0, "demo")
    assert not plan.draws_all(FULL, 1, "demo")


def test_a_row_without_weights_is_not_run_at_demo_scale_unless_it_was(here):
    table, run = plan.specifications()["topiq_ablations"], "06_topiq/ablation_resnet18"
    assert run in plan.wanted(table, "paper")
    assert run not in plan.wanted(table, "demo")
    text = tables.write("topiq_ablations", "demo").read_text()
    assert f"not run at demo scale: needs ResNet18's weights; with a model hub: `{plan.command(run, 'demo')}`" in text
    synthetic_runs.write_run(here, "demo", run, 0, 0.5)
    assert run in plan.wanted(table, "demo")
    assert "needs ResNet18" not in tables.write("topiq_ablations", "demo").read_text()


def test_no_row_that_needs_weights_is_wanted_at_demo_scale():
    wanted = {run for table in plan.specifications().values() for run in plan.wanted(table, "demo")}
    lacking = ("table7_", "table2_cheng2020", "table3_resnet50", "table3_inception", "resnet18")
    assert not [run for run in wanted if any(part in run for part in lacking)]


def test_findings_compare_on_the_same_records(here):
    for seed in range(3):
        synthetic_runs.write_run(here, "demo", FULL, seed, 0.4)
    found = findings.findings("demo").set_index("paper")
    line = found.loc["PRFNet"]
    values = [
        records.read(here / records.folder("demo", FULL, seed))["metrics"]["accuracy PRFNet"]["value"]
        for seed in range(3)
    ]
    made = synthetic_runs.predictions(0.4, 0, triplets=True)
    assert line.ours == pytest.approx(sum(values) / 3)
    assert line.spread == pytest.approx(max(values) - min(values))
    assert line.ssim == pytest.approx((made.ssim == made.target).mean())
    assert line["minus ssim"] == pytest.approx(line.ours - line.ssim)
    assert line["low ssim"] < line["minus ssim"] < line["high ssim"]
    assert (line.n, line.references, line.seeds) == (240, 6, 3)
    assert line.weights == "tf_efficientnet_lite0.in1k, packaged 89abcdef"
    assert found.drop("PRFNet").ours.isna().all()
    assert "1 of 5 papers' full models" in findings.reading(findings.findings("demo"))


def test_findings_turn_a_metric_that_is_lower_for_better_images(here):
    synthetic_runs.write_run(here, "demo", "06_topiq/ablation_full", 0, 0.4)
    line = findings.findings("demo").set_index("paper").loc["CFANet"]
    assert line.gmsd > 0.7
    assert line.measure == "srocc"
    assert line["verdict ssim"] == "differs, but one training each: its noise is not known"


def test_findings_do_without_columns_that_are_not_there(here):
    folder = synthetic_runs.write_run(here, "demo", FULL, 0, 0.4)
    table = records.predictions(folder).drop(columns=["gmsd", "st-lpips-alex"])
    table.to_csv(folder / records.PREDICTIONS, index=False)
    line = findings.findings("demo").set_index("paper").loc["PRFNet"]
    assert pd.notna(line["minus ssim"])
    assert pd.isna(line["minus gmsd"])
    assert pd.isna(line["st-lpips-alex"])
    assert findings.shown(findings.findings("demo"))["minus GMSD"].tolist() == [""]
    table.drop(columns=["ssim", "psnr"]).to_csv(folder / records.PREDICTIONS, index=False)
    assert findings.told(findings.findings("demo"))[0].startswith("PRFNet: 2AFC accuracy 0.")


def test_a_difference_that_one_training_makes_is_not_called_one(here):
    def judged(spread_noise):
        for seed, noise in enumerate((0.3, 0.3, spread_noise)):
            synthetic_runs.write_run(here, "demo", FULL, seed, noise)
        lines = tables.differences(plan.specifications()["prfnet_table2"], "demo")
        return lines[lines.ours.notna()].set_index("row").loc["FPN"]

    synthetic_runs.write_run(here, "demo", "03_prfnet/table2_fpn", 0, 1.2)
    assert judged(0.3).verdict == "differs"
    line = judged(6.0)
    assert line.verdict in ("within noise", f"not resolved: one training moves by {line.training:.3f}")
    assert line.training > 0.1
    assert f"{line.training:.3f}" in tables.write("prfnet_table2", "demo").read_text()


def test_seeds_on_different_images_are_compared_seed_by_seed(here):
    for seed in range(2):
        for run, noise in ((FULL, 0.3), ("03_prfnet/table2_fpn", 1.5)):
            synthetic_runs.write_run(here, "demo", run, seed, noise, fingerprint=f"split {seed}")
    lines = tables.differences(plan.specifications()["prfnet_table2"], "demo")
    line = lines[lines.ours.notna()].set_index("row").loc["FPN"]
    assert line.seeds == 2
    assert line.low < line.ours < line.high < 0


def test_the_report_runs_on_a_whole_demo_and_hides_nothing(whole_demo):
    namespace = {}
    for cell in nbformat.read(ROOT / "notebooks/07_tables.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "07_tables", "exec"), namespace)
    text = report.page("demo")
    assert (
        text.index("## What was found") < text.index("## PRFNet, Table 2") < text.index("## What is not run, and why")
    )
    assert text.count("\n| ") > 150
    assert "PRFNet, Table 2: fusion of the difference maps | FPN | failed: ValueError: no luck" in text
    assert (
        "AHIQ, Table 7: backbones | ResNet101 + ViT-B/8 | not run at demo scale: needs ResNet101 and ViT-B/8's weights"
        in text
    )
    assert "at commit 01234567" in text
    opening = report.opening("demo")
    assert "**SROCC**:" in opening
    assert "5 of 5 papers' full models have been run" in opening
    assert all(f"| {paper} |" in opening for paper in plan.findings("demo"))


def test_a_page_explains_its_abbreviations():
    assert "**MFM**: multi-metric fusion module" in tables.text("iqa_tmfm_table2", "nowhere")
    assert "**FRNP**" in tables.text("fr_nr_table2", "nowhere")
    assert "**NRM**" not in tables.text("fr_nr_table2", "nowhere")


def test_a_table_has_a_headline(whole_demo):
    line = tables.headline("prfnet_table2", "demo")
    assert line.startswith("PRFNet, Table 2, accuracy, demo set: PRFBlock 0.")
    assert line.endswith("; SSIM 0.700")
    assert ", BiFPN 0." in line
    assert tables.headline("ahiq_table2", "demo").endswith("no number of ours")
    assert tables.result(FULL, 0, "demo").startswith("PRFNet's 2AFC accuracy 0.")
    assert tables.result("01_baselines/demo", 0, "demo").startswith("psnr's SROCC ")


def test_what_is_slow_tells_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv(PLACE, str(tmp_path / "progress.json"))
    bar = progress(range(5, 8), "step 1", initial=5, total=8)
    next(iter(bar))
    assert json.loads((tmp_path / "progress.json").read_text()) == {"name": "step 1", "step": 5, "steps": 8, "note": ""}
    bar.set_postfix(loss="0.5")
    bar.tell(6)
    assert json.loads((tmp_path / "progress.json").read_text())["note"] == "loss=0.5"


def workflow(here, lines):
    """A command in place of Snakemake."""
    script = f"import sys, time\nfrom pathlib import Path\nsys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT)!r}]\n"
    script += f"import synthetic_runs\nhere = Path({str(here)!r})\n" + lines
    return [sys.executable, "-c", script]


def shown(here, monkeypatch, command, terminal=False):
    """The exit status and what `reproduce` prints."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(reproduce, "LOOK_EVERY", 0.05)
    status = reproduce.reproduce("demo", command, NOTHING, screen=reproduce.Screen(stream))
    return status, stream.getvalue()


MAKES_A_TABLE = """
folder = here / "outputs/demo/03_prfnet/table2_fpn/seed0"
folder.mkdir(parents=True)
print("noise")
(folder / "progress.json").write_text('{"name": "step 1", "step": 3, "steps": 9, "note": "loss=0.5"}')
time.sleep(0.5)
(folder / "progress.json").unlink()
(folder / "failed.txt").write_text("ValueError: no luck")
for run, seed in [("03_prfnet/table2_bifpn", 0), *(("03_prfnet/table2_prfblock", seed) for seed in range(3))]:
    synthetic_runs.write_run(here, "demo", run, seed, 0.5)
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_rows_and_tables_are_shown_as_they_come(here, monkeypatch, terminal):
    status, text = shown(here, monkeypatch, workflow(here, MAKES_A_TABLE), terminal)
    assert status == 1
    lines = text.splitlines()
    assert "noise" not in text
    assert "noise" in (here / "outputs/demo/reproduce.log").read_text()
    assert "FAILED 03_prfnet/table2_fpn: ValueError: no luck" in text
    headline = next(line for line in lines if "PRFNet, Table 2, accuracy, demo set: PRFBlock 0." in line)
    assert headline.endswith("-> outputs/demo/tables/prfnet_table2.md")
    assert "without a number: 03_prfnet/table2_fpn: ValueError: no luck (outputs/demo/03_prfnet/table2_fpn" in text
    assert "report: outputs/demo/tables/report.html" in text
    assert ("\r" in text) == ("\x1b" in text) == terminal
    assert (" | prfnet/table2_fpn step 1 3/9 loss=0.5" in text) == terminal
    assert any("03_prfnet/table2_bifpn: PRFNet's 2AFC accuracy 0." in line for line in lines) == (not terminal)


def test_the_papers_networks_are_compared_as_soon_as_they_are_there(whole_demo, monkeypatch):
    status, text = shown(whole_demo, monkeypatch, NOTHING)
    lines = text.splitlines()
    assert status == 1
    found = [number for number, line in enumerate(lines) if line.startswith("PRFNet: 2AFC accuracy 0.")]
    assert len(found) == 1
    assert "SSIM 0." in lines[found[0]]
    assert "minus GMSD" in lines[found[0]]
    assert found[0] < min(number for number, line in enumerate(lines) if " -> " in line)
    assert len(lines) < 100


def test_ctrl_c_stops_the_children(here, tmp_path):
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from iqa_lib.lab import reproduce\n"
        "child = [sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)']\n"
        "sys.exit(reproduce.reproduce('nowhere', child, child, screen=reproduce.Screen(sys.stdout)))\n"
    )
    log = ROOT / "outputs/nowhere/reproduce.log"
    log.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not (log.exists() and log.read_text()) and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped with 0 rows finished" in out
    log.unlink()
    log.parent.rmdir()
