"""The papers' tables of methods: their rows, where each comes from, and that a demo number never stands among them."""

import numpy as np
import pandas as pd
import pytest

from iqa_lib import baselines, data
from iqa_lib.files import read_json, write_json
from iqa_lib.lab import records, runs, tables

ROWS = {
    "prfnet_table2": 4,
    "prfnet_table3": 4,
    "prfnet_table4": 9,
    "iqa_tmfm_table1": 9,
    "iqa_tmfm_table2": 12,
    "ahiq_table2": 18,
    "ahiq_table4": 20,
    "ahiq_table5": 4,
    "ahiq_table6": 5,
    "ahiq_table7": 6,
    "ahiq_table8": 3,
    "ahiq_table9": 5,
    "fr_nr_table1": 5,
    "fr_nr_table2": 8,
    "fr_nr_figure2": 3,
    "fr_nr_table3": 4,
    "topiq_benchmark": 13,
    "topiq_others": 1,
    "topiq_ablations": 11,
    "topiq_figure4b": 6,
    "topiq_figure4b_vgg": 6,
    "baselines_demo": len(baselines.BASELINES),
}
WEIGHTS = {"network": "tf_efficientnet_lite0.in1k", "source": "packaged", "file": "w.pth", "sha256": "89abcdef01"}
SPECIFIED = tables.specifications()
METHODS = [name for name, table in SPECIFIED.items() if "columns" in table]
OWN_WORDS = {
    "challenge entry, unnamed",
    "hidden labels; ours on the training release is in Table 4",
}
OURS_ALONE = {
    "ahiq": ("PLCC PIPAL", "SROCC PIPAL", "main score PIPAL"),
    "fr_n": ("SROCC all of KADID-10k", "KROCC all of KADID-10k"),
}
"""Columns for which the paper has no number, by the paper's name."""
NOTHING_PUBLISHED = {"baselines_demo", "topiq_ablations", "topiq_figure4b", "topiq_figure4b_vgg"}
SOURCES = {"baseline", "run", "runs", "ensemble", "reported"}
MEASURES = {"srocc", "plcc", "plcc4", "krocc", "rmse", "accuracy", "accuracy_devkit", "main"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A repository of its own for outputs, with the real params."""
    (tmp_path / "params").symlink_to(runs.repo_root() / "params")
    for module in (records, tables):
        monkeypatch.setattr(module, "repo_root", lambda: tmp_path)
    return tmp_path


def record(here, run, *, name, split, scale="demo", seed=0, fingerprint="x", **metrics):
    """A finished record as the notebook writes it, with one value a metric."""
    estimates = {
        key: {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9, "references": 3}
        for key, value in metrics.items()
    }
    path = here / "outputs" / scale / run / f"seed{seed}" / "run.json"
    path.parent.mkdir(parents=True)
    test = {"name": name, "split": split, "label": "MOS", "fingerprint": fingerprint}
    described = {
        "weights": WEIGHTS,
        "seconds": 90,
        "peak_memory_bytes": 2_340_000_000,
        "device": "cpu",
        "commit": "0123456789",
        "dirty": False,
    }
    write_json(path, {"metrics": estimates, "data": {"test": test}, "parameters": {"seed": seed}} | described)
    (path.parent / "predictions.csv").touch()
    return path.parent


def line(text, label):
    return next(row for row in text.splitlines() if row.startswith(f"| {label} |"))


def test_every_table_of_methods_is_known_with_its_number_of_rows():
    assert {name: len(SPECIFIED[name]["rows"]) for name in METHODS} == ROWS
    assert len(SPECIFIED["ahiq_table1"]["counts"]) == 5


@pytest.mark.parametrize("name", METHODS)
def test_every_row_has_one_known_source(name):
    for row in SPECIFIED[name]["rows"]:
        assert len(SOURCES & set(row)) == 1, row
        assert row.get("baseline", "psnr") in baselines.BASELINES, row
        assert row.get("reported", "VIF") in OWN_WORDS | set(baselines.REPORTED), row
        assert ("method" in row) == bool({"run", "runs"} & set(row)), row


@pytest.mark.parametrize("name", METHODS)
def test_every_column_names_its_data_and_split_or_none_at_all(name):
    for column in SPECIFIED[name]["columns"]:
        assert set(column) == {"name"} or {"name", "metric"} <= set(column)
        assert set(column) <= {"name", "metric", "data", "split", "run", "side", "n", "live_dmos"}
        assert "metric" not in column or "data" in column or "n" in column
        assert column.get("metric", "srocc") in MEASURES
        assert column.get("data", "demo") in data.NAMES
        if "data" in column:
            assert ("split" in column) == (column["data"] != "demo"), "only a demo column may stand on part of a set"


@pytest.mark.parametrize("name", sorted(set(METHODS) - NOTHING_PUBLISHED))
def test_the_papers_values_are_plausible_and_the_papers_own_network_leads_the_field(name):
    table = SPECIFIED[name]
    published = [
        column for column in table["columns"] if "devkit" not in column["name"] and "release" not in column["name"]
    ]
    told = [column for column in published if not column["name"].startswith(OURS_ALONE.get(name[:4], "none"))]
    told = [column for column in told if column.get("data") != "demo"]
    for row in table["rows"]:
        assert row["paper"] or "(extra)" in row["label"], row
        assert len(row["paper"]) in (0, len(told)), row
        for column, value in zip(told, row["paper"], strict=bool(row["paper"])):
            assert value is None or 0 <= value < (2 if column["name"].startswith("main score") else 1), row
    assert not any("paper" in row for row in SPECIFIED["baselines_demo"]["rows"])


def test_the_main_score_is_the_sum_of_the_correlations():
    for row in (row for table in ("table7", "table8", "table9") for row in SPECIFIED[f"ahiq_{table}"]["rows"]):
        plcc, srocc, main = row["paper"]
        assert main == pytest.approx(plcc + srocc, abs=0.0021)


def test_the_demo_table_has_every_baseline():
    assert [row["baseline"] for row in SPECIFIED["baselines_demo"]["rows"]] == list(baselines.BASELINES)


@pytest.mark.parametrize("name", METHODS)
def test_every_table_is_written_before_anything_has_been_run(name, here):
    text = tables.write(name, "paper").read_text()
    assert text.split("\n## ")[0].count("\n| ") == ROWS[name] + 2
    assert ": ours" not in text
    assert not (here / f"outputs/paper/tables/{name}.png").exists()


def test_ours_stands_beside_the_papers_value_with_its_interval(here):
    record(here, "01_baselines/clic", name="clic", split="validation", **{"accuracy ssim": 0.57, "accuracy psnr": 0.6})
    text = tables.write("prfnet_table4", "demo").read_text()
    assert "| 0.571 | 0.570 [0.470, 0.670] | 9 (3) | ssim in 01_baselines/clic, seed 0 |" in line(text, "SSIM")
    assert line(text, "LPIPS").endswith("| weights not found |")
    assert line(text, "MS-SSIM").endswith("| left out of the run, or undefined for a pair |")
    assert line(text, "PRFNet").endswith("| not run |")
    assert line(text, "SwinIQA").endswith(f"| reported: {baselines.REPORTED['SwinIQA']} |")
    assert (here / "outputs/demo/tables/prfnet_table4.png").exists()


@pytest.mark.parametrize(
    ("name", "split"), [("demo", "validation"), ("clic", "train"), ("clic", "validation, 100 of 5220")]
)
def test_what_stands_on_other_data_is_no_number_of_the_paper(here, name, split):
    record(here, "01_baselines/clic", name=name, split=split, **{"accuracy ssim": 0.57})
    record(here, "03_prfnet/table2_prfblock", name=name, split=split, **{"accuracy PRFNet": 0.99})
    lines = tables.comparison(SPECIFIED["prfnet_table4"], "demo")
    assert lines.ours.isna().all()
    assert "0.990" not in tables.write("prfnet_table4", "demo").read_text()


def test_a_row_may_stand_on_another_side_than_its_column(here):
    run = "06_topiq/benchmark_csiq"
    record(here, run, name="kadid10k", split="test", **{"srocc CFANet": 0.9, "srocc CFANet cross": 0.8})
    path = here / "outputs/demo" / run / "seed0/run.json"
    found = read_json(path)
    found["data"]["cross"] = {"name": "csiq", "split": "all", "label": "DMOS"}
    write_json(path, found)
    lines = tables.comparison(SPECIFIED["topiq_benchmark"], "demo")
    assert lines[lines.row == "CFANet"].set_index("column").ours.dropna().to_dict() == {"SROCC CSIQ": 0.8}


def test_hidden_labels_have_a_column_without_ours(here):
    record(here, "01_baselines/pipal", name="pipal", split="all", **{"srocc ssim": 0.5, "plcc ssim": 0.4})
    lines = tables.comparison(SPECIFIED["ahiq_table4"], "demo")
    ssim = lines[lines.row == "SSIM"].set_index("column")
    assert ssim.ours.dropna().to_dict() == {"PLCC training release": 0.4, "SROCC training release": 0.5}
    assert ssim.paper.dropna().tolist() == [0.377, 0.319, 0.391, 0.361]


def test_the_demo_table_calls_its_numbers_demo_numbers(here):
    record(here, "01_baselines/demo", name="demo", split="test, 9 of 90", **{"srocc ssim": 0.8, "rmse ssim": 0.3})
    text = tables.write("baselines_demo", "demo").read_text()
    assert "**demo numbers**" in text
    assert "paper" not in line(text, "method")
    assert "0.800 [0.700, 0.900]" in line(text, "SSIM")


def test_several_seeds_have_their_mean_the_mean_of_their_intervals_and_their_spread(here):
    def cell():
        lines = tables.comparison(SPECIFIED["prfnet_table2"], "demo")
        return lines[(lines.row == "FPN") & (lines.column == "accuracy, demo set")].iloc[0]

    for seed, value in enumerate((0.70, 0.74, 0.72)):
        record(here, "03_prfnet/table2_fpn", name="demo", split="test", seed=seed, **{"accuracy PRFNet": value})
        if seed == 0:
            assert (cell().ours, cell().low, cell().high, cell().seeds) == (0.7, 0.6, pytest.approx(0.8), 1)
    found = cell()
    assert (found.ours, found.spread, found.seeds) == (pytest.approx(0.72), pytest.approx(0.04), 3)
    assert (found.low, found.high) == (pytest.approx(0.62), pytest.approx(0.82))
    text = tables.write("prfnet_table2", "demo").read_text()
    assert "0.720 [0.620, 0.820], 3 seeds within 0.040" in line(text, "FPN")
    assert "seeds 0, 1, 2" in line(text, "FPN")
    assert "| 3 | 4.5 | 2.3 | cpu | 01234567 (recorded without checksums) |" in text


@pytest.mark.parametrize("same", [True, False])
def test_a_difference_is_paired_over_the_same_images(here, same):
    rng = np.random.default_rng(0)
    target = rng.integers(2, size=400).astype(float)
    made = {}
    for i, (row, right) in enumerate({"table2_prfblock": 0.8, "table2_fpn": 0.7}.items()):
        prediction = np.where(rng.random(400) < right, target, 1 - target) * 0.8 + 0.1
        made[row] = (prediction > 0.5) == target
        folder = record(
            here,
            f"03_prfnet/{row}",
            name="demo",
            split="test",
            fingerprint="x" if same else f"x{i}",
            **{"accuracy PRFNet": made[row].mean()},
        )
        table = pd.DataFrame({"reference_id": np.repeat(np.arange(20), 20), "target": target, "prediction": prediction})
        table.to_csv(folder / "predictions.csv", index=False)
    lines = tables.differences(SPECIFIED["prfnet_table2"], "demo")
    ours = lines[(lines.row == "FPN") & lines.ours.notna()]
    if not same:
        assert ours.empty
        return
    gaps = (made["table2_fpn"].astype(float) - made["table2_prfblock"]).reshape(20, 20).mean(1)
    assert ours.ours.item() == pytest.approx(gaps.mean())
    drawn = [gaps[np.random.default_rng(s).integers(20, size=20)].mean() for s in range(4000)]
    assert ours.low.item() == pytest.approx(np.percentile(drawn, 2.5), abs=0.01)
    assert ours.high.item() == pytest.approx(np.percentile(drawn, 97.5), abs=0.01)


def test_predictions_that_do_not_give_the_recorded_number_make_no_difference(here):
    for row in ("table2_prfblock", "table2_fpn"):
        folder = record(here, f"03_prfnet/{row}", name="demo", split="test", **{"accuracy PRFNet": 0.9})
        table = pd.DataFrame({"reference_id": range(4), "target": [0.0, 1, 1, 0], "prediction": [0.2, 0.7, 0.4, 0.6]})
        table.to_csv(folder / "predictions.csv", index=False)
    assert tables.differences(SPECIFIED["prfnet_table2"], "demo").ours.isna().all()


def test_the_papers_differences_stand_beside_their_noise():
    lines = tables.differences(SPECIFIED["iqa_tmfm_table2"], "nowhere").set_index("row")
    assert lines.paper["without MFM"] == pytest.approx(-0.001)
    p = np.array([0.779, 0.780])
    assert lines.paper_noise["without MFM"] == pytest.approx(1.96 * np.sqrt((p * (1 - p) / 5220).sum()))
    assert lines.paper["without NRM, the network alone"] == pytest.approx(0.745 - 0.779), "alone minus alone"
    text = tables.sections("iqa_tmfm_table2", "nowhere")["Differences"][1].set_index("method")
    assert text["paper: verdict"]["without MFM"] == "open", "only the predictions would tell"
    assert text["paper: verdict"]["without NRM"] == "differs"
    assert "paper: noise, paired as ours" not in text


def answering(here, run, right, fused=None, scale="paper"):
    """A record of IQA-TMFM on CLIC-V whose network and fusion are right where these say."""
    target = np.arange(right.size) % 2.0

    def answer(correct):
        return np.where(correct, target, 1 - target) * 0.8 + 0.1

    both = {"accuracy IQA-TMFM": (right if fused is None else fused).mean(), "accuracy its network alone": right.mean()}
    folder = record(here, run, name="clic", split="validation", scale=scale, **both)
    table = pd.DataFrame({"reference_id": np.arange(right.size) // 20, "target": target})
    table["prediction"] = answer(right if fused is None else fused)
    table.assign(**{"its network alone": answer(right)}).to_csv(folder / "predictions.csv", index=False)
    path = folder / "run.json"
    found = read_json(path)
    found["parameters"]["metrics"] = "psnr, dists"
    write_json(path, found)


def test_published_differences_have_a_band_of_noise_from_how_alike_our_own_two_answer(here):
    rng = np.random.default_rng(0)
    full = rng.random(4000) < 0.8
    subtracted = full ^ (rng.random(4000) < 0.05)
    answering(here, "02_iqa_tmfm/table2_full", full)
    answering(here, "02_iqa_tmfm/table2_without_mfm", full)
    answering(here, "02_iqa_tmfm/table2_without_nrm", subtracted, fused=full)
    lines = tables.differences(SPECIFIED["iqa_tmfm_table2"], "paper").set_index("row")
    discordant = (full != subtracted).mean()
    alone = lines.loc["without NRM, the network alone"]
    assert alone.pairing == pytest.approx(discordant)
    assert alone.ours == pytest.approx(subtracted.mean() - full.mean())
    mcnemar = 1.96 * np.sqrt((discordant - 0.034**2) / 5220)
    assert alone.paper_paired == pytest.approx(mcnemar)
    assert alone.paper_paired < alone.paper_noise
    assert lines.ours["without NRM"] == pytest.approx(0), "fused, the metrics carry the answer"
    assert np.isnan(lines.paper_paired["MSE loss, sigmoid(output) > 0.5 (released code)"]), "not run"
    shown = tables.text("iqa_tmfm_table2", "paper")
    assert f"± {alone.paper_noise:.3f} | ± {mcnemar:.3f} | differs |" in shown


def test_a_fused_number_names_the_metrics_it_was_fused_with(here):
    answering(here, "02_iqa_tmfm/table2_without_nrm", np.arange(80) % 4 > 0)
    text = tables.write("iqa_tmfm_table2", "paper").read_text()
    assert line(text, "without NRM").endswith(
        "IQA-TMFM in 02_iqa_tmfm/table2_without_nrm, seed 0, metrics psnr, dists |"
    )
    assert line(text, "without NRM, the network alone").endswith(
        "its network alone in 02_iqa_tmfm/table2_without_nrm, seed 0 |"
    )


def test_the_main_score_of_ours_comes_from_the_predictions(here):
    folder = record(
        here,
        "04_ahiq/table8_spatial",
        name="pipal",
        split="test",
        scale="paper",
        **{"plcc AHIQ": 0.5, "srocc AHIQ": 0.5},
    )
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"reference_id": np.arange(60) // 10, "side": "test", "target": rng.normal(size=60)})
    table["prediction"] = table.target + rng.normal(size=60)
    table.to_csv(folder / "predictions.csv", index=False)
    cells = tables.comparison(SPECIFIED["ahiq_table8"], "paper").set_index(["row", "column"]).loc["spatial"]
    expected = table.prediction.corr(table.target) + table.prediction.corr(table.target, method="spearman")
    assert cells.ours["main score PIPAL"] == pytest.approx(expected)
    assert cells.low["main score PIPAL"] < expected < cells.high["main score PIPAL"]
    assert cells.paper["main score NTIRE test"] == 1.589


def test_fr_nrs_own_row_stands_on_the_fifth_and_across_on_all_of_pipal(here):
    run, own = "05_fr_nr/table3_inception_v3", {"srocc FR+NR": 0.9, "srocc FR+NR cross": 0.6}
    folder = record(here, run, name="kadid10k", split="test", scale="paper", **own)
    found = read_json(folder / "run.json")
    found["data"]["cross"] = {"name": "pipal", "split": "all", "label": "MOS"}
    write_json(folder / "run.json", found)
    fifth = "01_baselines/kadid10k_fifth"
    record(here, fifth, name="kadid10k", split="test", scale="paper", **{"srocc dists": 0.7})
    cells = tables.comparison(SPECIFIED["fr_nr_table1"], "paper").set_index(["row", "column"]).ours
    assert cells["FR+NR (Inception-v3)"].dropna().to_dict() == {"SROCC KADID-10k": 0.9, "SROCC PIPAL": 0.6}
    assert cells["DISTS"].dropna().to_dict() == {"SROCC KADID-10k": 0.7}
    assert "| 0.6250 |" in tables.write("fr_nr_table1", "paper").read_text(), "as many decimals as the paper"


def test_the_plcc_of_ahiq_in_table_2_stands_raw_and_fitted(here):
    own = {"plcc AHIQ": 0.5, "plcc4 AHIQ": 0.6}
    record(here, "04_ahiq/table2_csiq", name="csiq", split="test", scale="paper", **own)
    cells = tables.comparison(SPECIFIED["ahiq_table2"], "paper")
    ours = cells[cells.column == "PLCC CSIQ"].set_index("row").ours
    assert ours["AHIQ (ViT-B/16), test fifth"] == 0.6
    assert ours["AHIQ (ViT-B/16), test fifth, PLCC without a fit (as in the released code)"] == 0.5


@pytest.mark.parametrize(("dmos", "seen"), [("original", True), ("realigned", False), (None, False)])
def test_the_benchmark_on_live_takes_only_runs_by_its_label_file(here, dmos, seen):
    run = "06_lpips_plus/benchmark_alex_live"
    path = record(here, run, name="live", split="all", scale="paper", **{"srocc LPIPS+": 0.9}) / "run.json"
    found = read_json(path)
    found["parameters"] |= {"live_dmos": dmos} if dmos else {}
    write_json(path, found)
    assert tables.comparison(SPECIFIED["topiq_benchmark"], "paper").ours.notna().any() == seen
    text = tables.text("topiq_benchmark", "paper")
    assert "KROCC LIVE (dmos.mat): IQA-PyTorch" in text
    assert ": paper" not in text, "the authors' library is not the paper"


def test_a_row_that_failed_shows_why(here):
    folder = here / "outputs/demo/03_prfnet/table2_fpn/seed0"
    folder.mkdir(parents=True)
    (folder / "failed.txt").write_text("ParameterError: lr | got 'fast'\n")
    text = tables.write("prfnet_table2", "demo").read_text()
    assert line(text, "FPN").endswith("| failed: ParameterError: lr \\| got 'fast' |")
    assert line(text, "BiFPN").endswith("| not run |")


def test_tables_are_pages_too(here):
    record(here, "03_prfnet/table2_fpn", name="demo", split="test", **{"accuracy PRFNet": 0.75})
    tables.write("prfnet_table2", "demo")
    page = (here / "outputs/demo/tables/prfnet_table2.html").read_text()
    assert page.count("<table>") == 3
    assert "<td>FPN</td>" in page
    assert '<img src="prfnet_table2.png"' in page


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_a_scale_wants_the_runs_of_its_own_columns(scale):
    named = {run for table in SPECIFIED.values() for run in tables.wanted(table, scale)}
    assert ("01_baselines/demo" in named) == (scale == "demo")
    assert ("04_ahiq/table2_live" in named) == (scale == "paper")
    assert "03_prfnet/table2_fpn" in named


def test_sizes_of_data_sets_that_are_not_found_are_not_guessed(here):
    text = tables.write("ahiq_table1", "demo").read_text()
    assert text.count("not found") == 5
    assert "| 29 / 779 / 5 |" in text


def test_the_table_of_completeness_counts_what_the_tables_hold():
    """Rows of each published table: how many stand beside a run of ours, how many are quoted, and why."""
    page = (runs.repo_root() / "docs/verified.md").read_text()
    for name in sorted(set(METHODS) - {"baselines_demo"}):
        table = SPECIFIED[name]
        told = [row for row in table["rows"] if "(extra)" not in row["label"]]
        quoted = [row for row in told if "reported" in row]
        extra = len(table["rows"]) - len(told)
        counts = f"| {table['title']} | {len(told)} | {len(told) - len(quoted)} | {len(quoted) or ''} | {extra or ''} |"
        assert counts in page, counts
        line = page[page.index(counts) :].splitlines()[0]
        for row in quoted:
            assert row["label"] in line or "challenge entries" in line, row["label"]
