"""Every row at paper scale, dry: its parameters, its data sets, what it asks for, that it stops without weights, and on
a GPU its first two steps.

Trees of scored pairs have the true counts, as links to two images; CLIC, BAPPS and PieAPP are small. With
`--true-counts FOLDER` all eight are whole, and the steps are taken. A process a notebook is quickest, for it reads each
data set once and leaves a GPU's memory to the others:

    for notebook in 02_iqa_tmfm 03_prfnet 04_ahiq 05_fr_nr 06_topiq; do
        pytest tests/test_paper_rows.py -k "two_steps and $notebook and not strides" \\
            --true-counts /tmp/trees --true-counts-report $notebook.md &
    done; wait

PRFNet's `extra_strides_2_to_16` needs the GPU for itself (`-k "two_steps and strides"`).
"""

import gc
import math
import os
import shutil
import time
from functools import partial
from pathlib import Path
from urllib.error import URLError

import dataset_trees
import nbformat
import pytest
import torch
from huggingface_hub import constants

from iqa_lib import baselines, evaluation, training, weights
from iqa_lib.data import folder, protocols
from iqa_lib.devices import best_device
from iqa_lib.files import locked, repo_root, sha256
from iqa_lib.lab import plan, runs
from iqa_lib.lab.parameters import declared, read_parameters, validate
from iqa_lib.models import iqa_tmfm
from iqa_lib.weights import WeightsError

ROWS = sorted({run for table in plan.specifications().values() for run in plan.wanted(table, "paper")})
OWN = {f"0{i}_{name}/official_code" for i, name in ((2, "iqa_tmfm"), (4, "ahiq"))}
WITHOUT_DOWNLOADS = {f"05_fr_nr/extra_{row}" for row in ("frnp", "nr", "lite0")}
"""Rows that learn from random weights, or on those of an installed package."""
TRAINED = [run for run in (*ROWS, *sorted(OWN)) if not run.startswith(("01", "06_lpips_plus"))]
CAN_TRAIN = torch.cuda.is_available() or "TRAIN_ON_CPU" in os.environ  # minutes a row: to look for errors
FEW = 9  # records to choose by, to fuse (two batches) and to test; every n-th of PIPAL, whose labels repeat, differs
TRUE = {"kadid10k": 10_125, "pipal": 23_200, "tid2013": 3_000, "live": 779, "csiq": 866}


def test_the_rows_are_all_that_have_a_file_of_their_own():
    files = {f"{file.parent.name}/{file.stem}" for file in (repo_root() / "params").glob("0*/*.yaml")}
    profiles = {run for run in files if run.endswith(("/demo", "/paper"))}
    only_demo = {"01_baselines/demo", "01_baselines/demo_triplets", "06_topiq/preference_demo", "05_fr_nr/extra_lite0"}
    assert files - profiles - set(ROWS) - OWN <= only_demo


def parameters(run, root):
    """A row's parameters as Snakemake gives them: those of the profile, of the row and of the row at this scale."""
    notebook, row = run.split("/")
    files = plan.parameter_files(run, "paper")
    fewer = {"batch_size": 2} if "preference" in row and not whole(root) else {}  # than the tree's triplets
    return validate(notebook, read_parameters(*files) | {"data_root": str(root)} | fewer)


def cells(notebook):
    """The code of a notebook that a table needs."""
    found = nbformat.read(repo_root() / f"notebooks/{notebook}.ipynb", 4).cells
    code = [cell for cell in found if cell.cell_type == "code" and "figure" not in cell.metadata.get("tags", [])]
    return [cell.source for cell in code if "parameters" not in cell.metadata.get("tags", [])]


def running(run, namespace):
    """Run a row's cells, but for those that only draw, in a namespace of parameters; gives each after it was run."""
    for source in cells(run.split("/")[0]):
        exec(compile(source, f"{run}:\n{source}", "exec"), namespace)
        yield source


def run_until(run, root, last=""):
    """Run a row's cells, but for those that only draw, up to the one that holds the text `last`; gives their names."""
    namespace = parameters(run, root)
    for source in running(run, namespace):
        if last and last in source:
            break
    return namespace


class ReadOnce:
    """`folder.read_part` that keeps what it gives, for tests read each data set many times.

    `spared` counts the seconds that reading again would have taken.
    """

    def __init__(self):
        self.read, self.kept, self.spared = folder.read_part, {}, 0.0

    def __call__(self, module, root, part, **options):
        key, started = (module, root, part, *sorted(options.items())), time.monotonic()
        if key in self.kept:
            self.spared += self.kept[key][1]
        else:
            self.kept[key] = self.read(module, root, part, **options), time.monotonic() - started
        return self.kept[key][0]


def whole(root):
    """Whether the trees there have the true counts throughout."""
    return (root / "complete").exists()


def make_trees(root, builders, content):
    """Data sets as hard links to few files; `content(name, path)` is that of an image."""
    links = dataset_trees.Links()
    for name, make in builders.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataset_trees, "image", lambda path, name=name: links.write(path, content(name, path)))
            patch.setattr(dataset_trees, "write", links.write)
            make(root / name)


@pytest.fixture(scope="module")
def trees(tmp_path_factory, request):
    if given := request.config.getoption("--true-counts"):
        root = Path(given).resolve() / sha256(dataset_trees.__file__)[:8]
        with locked(root.with_suffix(".lock")):
            if not whole(root):
                shutil.rmtree(root, ignore_errors=True)
                make_trees(root, dataset_trees.WHOLE, dataset_trees.one_of_four)
                (root / "complete").touch()
    else:
        root, small = tmp_path_factory.mktemp("data"), ("clic", "bapps", "pieapp")
        builders = dataset_trees.WHOLE | {name: dataset_trees.TREES[name] for name in small}
        make_trees(root, builders, lambda _, path: dataset_trees.smallest(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "read_part", ReadOnce())
        yield root


def references(dataset):
    return len(set(dataset.reference_ids))


SIDES = {  # records of every side; those of CLIC, BAPPS and PieAPP in the small trees
    "02_iqa_tmfm": {"train": 22, "selection": 6, "test": 6},
    "03_prfnet": {"coarse": 28, "fine": 23, "test": 6},
    "04_ahiq": {"train": 13_920, "selection": 4_640, "test": 4_640},
    "04_ahiq/table2_live": {"train": 17, "selection": 6, "test": 6},
    "04_ahiq/table2_csiq": {"train": 18, "selection": 6, "test": 6},
    "04_ahiq/table2_tid2013": {"train": 15 * 120, "selection": 5 * 120, "test": 5 * 120},
    **{f"04_ahiq/table5_{name}": {"train": 23_200, "test": TRUE[name]} for name in ("live", "csiq", "tid2013")},
    "05_fr_nr": {"train": 8_125, "test": 2_000, "cross": 23_200},
    "05_fr_nr/extra_split_by_row": {"train": 8_100, "test": 2_025, "cross": 23_200},
    "06_topiq": {"train": 8_125, "test": 2_000},
    "06_topiq/pipal": {"train": 18_560, "test": 4_640},
    **{
        f"06_topiq/benchmark_{name}": {"train": 8_125, "test": 2_000, "cross": TRUE[name]}
        for name in ("live", "csiq", "tid2013")
    },
    "06_topiq/preference_bapps": {"train": 9, "test": 6},
    "06_topiq/preference_pieapp": {"train": 4, "test": 2},
    "06_lpips_plus": {"test": 3_000},
    "06_lpips_plus/benchmark_alex_live": {"test": 779},
    "06_lpips_plus/benchmark_vgg_live": {"test": 779},
    "06_lpips_plus/benchmark_alex_csiq": {"test": 866},
    "06_lpips_plus/benchmark_vgg_csiq": {"test": 866},
    **{f"01_baselines/{name}": {"test": count} for name, count in TRUE.items()},
    "01_baselines/kadid10k_fifth": {"test": 2_000},
    "01_baselines/live_original": {"test": 779},
    "01_baselines/clic": {"test": 6},
}
WHOLE_SIDES = SIDES | {
    "02_iqa_tmfm": {"train": 97_686, "selection": 24_421, "test": 5_220},
    "03_prfnet": {"coarse": 122_107, "fine": 187_744 + 82_080, "test": 5_220},
    "06_topiq/preference_bapps": {"train": 151_400, "test": 36_344},
    "06_topiq/preference_pieapp": {"train": 67_620, "test": 4_800},
    "01_baselines/clic": {"test": 5_220},
}


def check_sides(run, namespace, root):
    """That what a row opened has the papers' sides."""
    sides = {side: found for side, found in namespace.get("sides", {}).items() if side != "fusion"}
    sides = sides or {"test": namespace["test"]}
    by_reference = run in ("04_ahiq/table2_live", "04_ahiq/table2_csiq")
    counted = {side: references(dataset) if by_reference else len(dataset) for side, dataset in sides.items()}
    expected = WHOLE_SIDES if whole(root) else SIDES
    assert counted == (expected.get(run) or expected[run.split("/")[0]])


@pytest.mark.parametrize("run", [*ROWS, *sorted(OWN)])
def test_every_row_at_paper_scale_opens_its_data_with_the_papers_sides(run, trees, tmp_path):
    notebook, row = run.split("/")
    given = parameters(run, trees)
    assert (given["row"], given["scale"]) == (row, "paper")
    namespace = given | {"run": runs.Run(notebook, given, tmp_path)}
    imports, opening = cells(notebook)[0], [c for c in cells(notebook) if "sides_of(" in c or "data.load(" in c]
    exec(imports, namespace)
    exec(opening[0], namespace)
    check_sides(run, namespace, trees)
    assert given.get("max_records", 0) == given.get("fuse_records", 0) == 0
    assert "max_steps" not in given or given["max_steps"] == (20_000 if notebook == "06_topiq" else 0)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Empty caches of weights, and no network."""

    def urlopen(request, *, timeout):
        raise URLError("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    monkeypatch.setattr(weights, "urlopen", urlopen)


@pytest.mark.parametrize("run", sorted({*ROWS, *OWN} - WITHOUT_DOWNLOADS))
def test_without_weights_every_row_at_paper_scale_stops_with_the_options_before_any_work(
    run, trees, nowhere, monkeypatch
):
    def work(*_, **__):
        raise AssertionError("work began before the weights were there")

    monkeypatch.setattr(runs.Run, "fit", work)
    for name in ("baseline_scores", "crop_outputs"):
        monkeypatch.setattr(evaluation, name, work)
    with pytest.raises(WeightsError, match="The options are: "):
        run_until(run, trees)


@pytest.mark.parametrize("run", [run for run in (*ROWS, *sorted(OWN)) if run.startswith(("01", "02"))])
def test_the_metrics_of_a_row_at_paper_scale_are_the_papers_whatever_is_on_this_machine(
    run, trees, nowhere, monkeypatch
):
    """Nothing overrides `metrics`: without a file on this machine all are asked for, none is left out in silence."""
    asked = []
    monkeypatch.setattr(baselines, "load", lambda name, **_: asked.append(name) or baselines.BASELINES[name])
    namespace = run_until(run, trees, last="runs.start(")
    fused = parameters(run, trees).get("fuser") != "none"
    expected = list(baselines.BASELINES) if run.startswith("01") else list(iqa_tmfm.METRICS) if fused else []
    assert asked == list(namespace["loaded"]) == expected
    if run.startswith("02") and fused:
        assert namespace["run"].parameters["metrics"] == ", ".join(iqa_tmfm.METRICS), "what the record states"
        assert len(iqa_tmfm.METRICS) == 8


def test_at_smoke_scale_metrics_without_weights_are_left_out_and_named(nowhere, trees):
    known = declared("01_baselines")
    namespace = {name: parameter.default for name, parameter in known.items()} | {"metrics": "psnr, lpips-vgg"}
    for source in cells("01_baselines")[:2]:
        exec(source, namespace)
    assert list(namespace["loaded"]) == ["psnr"]
    assert namespace["status"] == {"psnr": "", "lpips-vgg": "weights not found"}


class Bar:
    """A training's progress bar that notes when its first step begins, and when its last one has ended."""

    def __init__(self, times, steps, _name, **_):
        self.times, self.steps = times, steps

    def __iter__(self):
        self.times.append(time.monotonic())
        yield from self.steps
        self.times.append(time.monotonic())

    def set_postfix(self, **_):
        pass


@pytest.fixture
def times(tmp_path, monkeypatch):
    """Times of all trainings as `Bar` notes them; metrics that need a download are random, files are written here."""

    def load(name, build, given):
        return weights.load_pretrained(name, build, "random" if name in weights.URLS else given)

    found = []
    monkeypatch.setattr(training, "progress", partial(Bar, found))
    monkeypatch.setattr(baselines, "load_pretrained", load)
    monkeypatch.setattr(runs, "repo_root", lambda: tmp_path)
    monkeypatch.setenv("IQA_LIB_CACHE", str(tmp_path / "cache"))
    if torch.cuda.is_available():
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats()
    yield found
    shutil.rmtree(tmp_path)
    gc.collect()
    torch.cuda.empty_cache()


def short(given):
    """A row's parameters, but two steps in each stage, random weights instead of downloads, and `FEW` to be fused."""
    random = {name: "random" for name, value in given.items() if name.endswith("weights") and value == "auto"}
    return given | random | {"max_steps": 2} | ({"fuse_records": FEW} if "fuse_records" in given else {})


def keep_few(namespace):
    """Leave `FEW` records to choose the epoch by and to test."""
    sides = namespace["sides"]
    sides |= {side: protocols.thinned(sides[side], FEW) for side in {"selection", "test", "cross"} & sides.keys()}
    namespace["test"] = sides["test"]


@pytest.mark.skipif(not CAN_TRAIN, reason="needs a GPU")
@pytest.mark.parametrize("run", TRAINED)
def test_every_row_that_trains_takes_two_steps_of_the_papers_size_within_a_minute(run, trees, times, request):
    if not whole(trees):
        pytest.skip("needs --true-counts")
    started, spared = time.monotonic(), folder.read_part.spared
    namespace = short(parameters(run, trees))
    for source in running(run, namespace):
        if "sides_of(" in source:
            check_sides(run, namespace, trees)
            records = {side: len(dataset) for side, dataset in namespace["sides"].items() if side != "fusion"}
            keep_few(namespace)
        if "notebook.check(" in source:  # every prediction is finite
            break
    fits, fused = namespace["run"].steps, namespace.get("fuser", "none") != "none"
    assert len(fits) == 1 + (namespace.get("fuser") == "mlp" or namespace.get("strategy") == "progressive")
    assert all(len(fit.history) == 2 and fit.history.loss.map(math.isfinite).all() for fit in fits.values())
    assert not fused or list(namespace["loaded"]) == list(iqa_tmfm.METRICS)
    waited = times[0] - started + folder.read_part.spared - spared
    steps = ", ".join(f"{end - start:.1f}" for start, end in zip(times[::2], times[1::2], strict=True))
    if report := request.config.getoption("--true-counts-report"):
        counted = ", ".join(f"{side} {count:,}" for side, count in records.items())
        memory = training.peak_memory(best_device()) / 2**30
        with open(report, "a", encoding="utf-8") as file:
            file.write(f"| {run} | {counted} | {waited:.1f} | {steps} | {memory:.1f} |\n")
    assert waited < 60
