"""Every row at paper scale, dry: its parameters, its data sets, what it asks for, and that it stops without weights.

Trees of scored pairs have the true counts, as links to two images; CLIC, BAPPS and PieAPP are small.
"""

import os
from functools import cache
from urllib.error import URLError

import dataset_trees
import nbformat
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from openpyxl import Workbook
from scipy.io import savemat

from iqa_lib import baselines, evaluation, weights
from iqa_lib.data import folder, live
from iqa_lib.files import repo_root
from iqa_lib.lab import plan, runs
from iqa_lib.lab.parameters import declared, read_parameters, validate
from iqa_lib.models import iqa_tmfm
from iqa_lib.weights import WeightsError

ROWS = sorted({run for table in plan.specifications().values() for run in plan.wanted(table, "paper")})
OWN = {f"0{i}_{name}/official_code" for i, name in ((2, "iqa_tmfm"), (4, "ahiq"))}
WITHOUT_DOWNLOADS = {f"05_fr_nr/extra_{row}" for row in ("frnp", "nr", "lite0")}
"""Rows that learn from random weights, or on those of an installed package."""
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
    fewer = {"batch_size": 2} if "preference" in row else {}  # than the tree's triplets
    return validate(notebook, read_parameters(*files) | {"data_root": str(root)} | fewer)


def cells(notebook):
    """The code of a notebook that a table needs."""
    found = nbformat.read(repo_root() / f"notebooks/{notebook}.ipynb", 4).cells
    code = [cell for cell in found if cell.cell_type == "code" and "figure" not in cell.metadata.get("tags", [])]
    return [cell.source for cell in code if "parameters" not in cell.metadata.get("tags", [])]


def run_until(run, root, last=""):
    """Run a row's cells, but for those that only draw, up to the one that holds the text `last`; gives their names."""
    notebook, _ = run.split("/")
    namespace = parameters(run, root)
    for source in cells(notebook):
        exec(compile(source, f"{run}:\n{source}", "exec"), namespace)
        if last and last in source:
            return namespace
    return namespace


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("clic", "bapps", "pieapp"):
            getattr(dataset_trees, name)(root / name)
        of_one_file = {}

        def link(path):
            """Another name of one image file."""
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = path.suffix.lower()
            if kind not in of_one_file:
                of_one_file[kind] = root / f"one{kind}"
                of_one_file[kind].write_bytes(dataset_trees.PNG if kind == ".png" else dataset_trees.BMP)
            os.link(of_one_file[kind], path)

        patch.setattr(dataset_trees, "image", link)
        for make in (kadid10k, pipal, tid2013, csiq):
            make(root / make.__name__, link)
        whole_live(root / "live", link)
        read = folder.read_part

        @cache
        def read_once(module, root, part, **options):
            """What `read_part` gives; the tests read each data set many times."""
            return read(module, root, part, **options)

        patch.setattr(folder, "read_part", read_once)
        yield root


def distorted(link, references, folder, count, kinds, name, ending):
    """Link references I01, I02, ... and their distorted images of five levels; gives the names of these."""
    names = []
    for reference in (f"I{number:02}" for number in range(1, count + 1)):
        link(references / f"{reference}{ending}")
        names += [name.format(reference, kind, level) for kind in range(1, kinds + 1) for level in range(1, 6)]
    for each in names:
        link(folder / each)
    return names


def kadid10k(root, link):
    names = distorted(link, root / "images", root / "images", 81, 25, "{}_{:02}_{:02}.png", ".png")
    lines = [f"{name},{name[:3]}.png,{1 + i % 40 / 10:.1f},0.4" for i, name in enumerate(names)]
    dataset_trees.write(root / "dmos.csv", "\n".join(["dist_img,ref_img,dmos,var", *lines]))


def pipal(root, link):
    for reference in (f"A{number:04}" for number in range(200)):
        link(root / f"Train_Ref/{reference}.bmp")
        names = [f"{reference}_{kind:02}_{level:02}.bmp" for kind in range(4) for level in range(29)]
        for number, name in enumerate(names):
            link(root / f"Distortion_{number % 4 + 1}" / name)
        labels = "".join(f"{name},{1000 + 5 * number}\n" for number, name in enumerate(names))
        dataset_trees.write(root / f"Train_Label/{reference}.txt", labels)


def tid2013(root, link):
    names = distorted(link, root / "reference_images", root / "distorted_images", 25, 24, "{}_{:02}_{}.bmp", ".BMP")
    lines = [f"{i % 70 / 10:.1f} {name}" for i, name in enumerate(names)]
    dataset_trees.write(root / "mos_with_names.txt", "\n".join(lines))


def csiq(root, link):
    """30 references; 29 distorted images each, but of four one fewer."""
    book = Workbook()
    sheet = book.create_sheet("all_by_image")
    for _ in range(3):
        sheet.append(["CSIQ"])
    sheet.append([None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"])
    kinds = {"noise": "awgn/{}.AWGN.{}.png", "jpeg": "jpeg/{}.JPEG.{}.png", "jpeg 2000": "jpeg2000/{}.jpeg2000.{}.png"}
    kinds |= {"fnoise": "fnoise/{}.fnoise.{}.png", "blur": "blur/{}.BLUR.{}.png"}
    kinds |= {"contrast": "contrast/{}.contrast.{}.png"}
    for number in range(30):
        link(root / f"src_imgs/r{number}.png")
        places = [(kind, level) for kind in kinds for level in range(1, 6)][: 28 if number < 4 else 29]
        for kind, level in places:
            link(root / "dst_imgs" / kinds[kind].format(f"r{number}", level))
            sheet.append([None, None, None, f"r{number}", 1, kind, level, 0.1, number / 30 * level / 5])
    book.save(root / "csiq.DMOS.xlsx")


def whole_live(root, link):
    """982 images, 203 of them copies of references."""
    total = sum(live.FOLDERS.values())
    copies = (np.arange(total) < 203).astype(float)
    for kind, count in live.FOLDERS.items():
        for number in range(1, count + 1):
            link(root / kind / f"img{number}.bmp")
    for number in range(29):
        link(root / f"refimgs/ref{number}.bmp")
    names = np.array([[f"ref{number % 29}.bmp" for number in range(total)]], dtype=object)
    dmos = np.arange(total) * 100 / total
    savemat(root / "refnames_all.mat", {"refnames_all": names})
    savemat(root / "dmos.mat", {"dmos": dmos[None], "orgs": copies[None]})
    savemat(root / "dmos_realigned.mat", {"dmos_new": dmos[None] + 0.5, "orgs": copies[None]})


def references(dataset):
    return len(set(dataset.reference_ids))


SIDES = {  # records of every side; the small trees' are those of the trees
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


@pytest.mark.parametrize("run", [*ROWS, *sorted(OWN)])
def test_every_row_at_paper_scale_opens_its_data_with_the_papers_sides(run, trees, tmp_path):
    notebook, row = run.split("/")
    given = parameters(run, trees)
    assert (given["row"], given["scale"]) == (row, "paper")
    namespace = given | {"run": runs.Run(notebook, given, tmp_path)}
    imports, opening = cells(notebook)[0], [c for c in cells(notebook) if "sides_of(" in c or "data.load(" in c]
    exec(imports, namespace)
    exec(opening[0], namespace)
    sides = namespace.get("sides") or {"test": namespace["test"]}
    counted = {side: len(dataset) for side, dataset in sides.items()}
    expected = SIDES.get(run) or SIDES[notebook]
    if row in ("table2_live", "table2_csiq"):
        counted = {side: references(dataset) for side, dataset in sides.items()}
    assert counted == expected
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


@pytest.mark.parametrize("run", [run for run in (*ROWS, *OWN) if run.startswith(("01", "02"))])
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
