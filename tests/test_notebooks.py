"""Notebooks by the papers' own parameters, on data in the true layouts: one by papermill, as a user runs them, and the
others cell by cell in this process, which costs no kernel."""

import ast
import json
import zlib

import dataset_trees
import nbformat
import numpy as np
import pytest
from PIL import Image

from iqa_lib.lab import runs
from iqa_lib.lab.execute import execute
from iqa_lib.lab.parameters import declared, read_parameters, validate

SMALL = {"row": "dry_run", "scale": "test", "weights": "random", "max_steps": 1, "max_batch": 2, "workers": 0}
SMALL |= {"precision": "fp32", "batch_size": 2, "crop": 64, "test_crop": 64, "test_crop_count": 1}
"""What is cut: the paper's layers stay, the number and size of its images and passes do not."""


@pytest.fixture
def trees(tmp_path, monkeypatch):
    """A folder for data sets, whose images are noise of their own, large enough for MS-SSIM."""

    def image(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, 256, (168, 176, 3), np.uint8)
        Image.fromarray(noise).save(path, compress_level=1)

    monkeypatch.setattr(dataset_trees, "image", image)
    return tmp_path / "data"


def kadid10k(root):
    """KADID-10k's layout with enough images for a test fifth that a logistic can be fitted to."""
    rng, lines = np.random.default_rng(0), ["dist_img,ref_img,dmos,var"]
    for reference in range(1, 11):
        dataset_trees.image(root / f"images/I{reference:02}.png")
        for kind in range(1, 5):
            name = f"I{reference:02}_{kind:02}_01.png"
            dataset_trees.image(root / "images" / name)
            lines.append(f"{name},I{reference:02}.png,{rng.uniform(1, 5):.2f},0.496")
    dataset_trees.write(root / "dmos.csv", "\n".join(lines) + "\n")


def run_cells(notebook, _output, parameters):
    """The notebook's cells one after another, as papermill runs them: the parameters follow their tagged cell."""
    validate(notebook, parameters)
    namespace = {}
    for number, cell in enumerate(nbformat.read(runs.repo_root() / f"notebooks/{notebook}.ipynb", 4).cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{notebook}, cell {number}", "exec"), namespace)
            namespace |= parameters if "parameters" in cell.metadata.get("tags", []) else {}


def run_paper(notebook, tmp_path, trees, run=run_cells, **changed):
    """Run a notebook by its `paper.yaml`, cut to a step; gives the record."""
    parameters = read_parameters(runs.repo_root() / f"params/{notebook}/paper.yaml")
    parameters |= {name: value for name, value in SMALL.items() if name in declared(notebook)}
    run(notebook, tmp_path / "out.ipynb", parameters | {"data_root": str(trees)} | changed)
    return json.loads((runs.repo_root() / f"outputs/test/{notebook}/dry_run/seed0/run.json").read_text())


def test_the_papers_configuration_of_prfnet_takes_a_step(tmp_path, monkeypatch):
    """SE-Res2Net50, all three data sets read from their own layouts; only the scale of things is cut."""
    monkeypatch.setattr(dataset_trees, "PNG", dataset_trees.encoded((64, 64)))
    for name in ("clic", "bapps", "pieapp"):
        getattr(dataset_trees, name)(tmp_path / "data" / name)
    record = run_paper("03_prfnet", tmp_path, tmp_path / "data", run=execute, accumulate=2)
    assert record["weights"] == {"network": "res2net50_26w_4s.in1k", "source": "random", "file": "", "sha256": ""}
    assert {name: step["steps"] for name, step in record["steps"].items()} == {"step 1": 1, "step 2": 1}
    assert record["data"]["fine"]["name"] == "bapps+pieapp"


def test_the_papers_configuration_of_iqa_tmfm_takes_a_step(tmp_path, trees):
    """ConvNeXt-Tiny, crops mirrored and turned, both stages, metrics fused, on CLIC's own layout."""
    dataset_trees.clic(trees / "clic")
    options = dict(draws=2, test_crop_count=2, metrics="psnr, gmsd")
    record = run_paper("02_iqa_tmfm", tmp_path, trees, **options)
    assert record["weights"]["backbone"]["network"] == "convnext_tiny.fb_in1k"
    assert {name: step["steps"] for name, step in record["steps"].items()} == {"stage 1": 1, "stage 2": 1}
    assert record["data"]["test"]["split"] == "validation"
    assert {"accuracy IQA-TMFM", "accuracy its network alone", "accuracy GMSD"} <= set(record["metrics"])


def test_the_papers_configuration_of_ahiq_takes_a_step(tmp_path, trees):
    """ResNet50 and ViT-B/8, on KADID-10k's layout."""
    kadid10k(trees / "kadid10k")
    options = dict(cnn_weights="random", vit_weights="random", hold_out=False)
    record = run_paper("04_ahiq", tmp_path, trees, dataset="kadid10k", **options)
    assert {weights["network"] for weights in record["weights"].values()} == {
        "resnet50.a1_in1k",
        "vit_base_patch8_224.augreg_in21k_ft_in1k",
    }
    assert {"srocc AHIQ", "plcc AHIQ", "srocc PSNR"} <= set(record["metrics"])


def test_the_papers_configuration_of_fr_nr_takes_a_step(tmp_path, trees):
    """Inception-v3 in all branches, whole images of KADID-10k's and PIPAL's layouts."""
    kadid10k(trees / "kadid10k")
    dataset_trees.pipal(trees / "pipal")
    record = run_paper("05_fr_nr", tmp_path, trees)
    assert {weights["network"] for weights in record["weights"].values()} == {"inception_v3.tv_in1k"}
    assert record["data"]["cross"]["name"] == "pipal"
    assert {"srocc FR+NR", "krocc FR+NR cross"} <= set(record["metrics"])


def test_the_papers_configuration_of_topiq_takes_a_step(tmp_path, trees):
    """ResNet50 that learns, images enlarged to the crop, on KADID-10k's layout and across to CSIQ's."""
    kadid10k(trees / "kadid10k")
    dataset_trees.csiq(trees / "csiq")
    record = run_paper("06_topiq", tmp_path, trees, cross="csiq")
    assert record["weights"]["network"] == "resnet50.a1_in1k"
    assert record["data"]["cross"]["name"] == "csiq"
    assert {"srocc CFANet", "plcc CFANet cross", "srocc GMSD"} <= set(record["metrics"])


def test_topiqs_preferences_take_a_step(tmp_path):
    """CFANet as a judge of triplets, by the row of BAPPS, on BAPPS's layout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_trees, "PNG", dataset_trees.encoded((64, 64)))
        dataset_trees.bapps(tmp_path / "data" / "bapps")
    row = read_parameters(runs.repo_root() / "params/06_topiq/preference_bapps.yaml")
    record = run_paper("06_topiq", tmp_path, tmp_path / "data", **row | {"row": "dry_run"})
    assert record["data"]["test"]["split"] == "val"
    assert {"accuracy CFANet", "accuracy PSNR"} <= set(record["metrics"])


def test_lpips_plus_is_tested_on_a_whole_data_set_without_training(tmp_path, trees):
    dataset_trees.tid2013(trees / "tid2013")
    record = run_paper("06_lpips_plus", tmp_path, trees, net="squeeze", semantic_layer=7, dataset="tid2013")
    assert not record["steps"]
    assert record["data"]["test"]["split"] == "all"
    assert record["metrics"]["srocc LPIPS+"] == record["metrics"]["srocc LPIPS+ layer 7"]


@pytest.mark.parametrize(
    "notebook", sorted(path.stem for path in (runs.repo_root() / "notebooks").glob("0[2-6]*.ipynb"))
)
def test_what_a_table_needs_hangs_on_no_cell_that_only_draws(notebook):
    """Cells tagged `figure` are left out of rows for a table: no other cell uses a name that only they define."""
    drawn, made = set(), set()
    for cell in nbformat.read(runs.repo_root() / f"notebooks/{notebook}.ipynb", 4).cells:
        if cell.cell_type == "code":
            names = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
            stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            if "figure" in cell.metadata.get("tags", []):
                drawn |= stored - made
            else:
                assert not ({node.id for node in names} - stored) & drawn, cell.source
                made |= stored
                drawn -= stored
    assert drawn, "some cells only draw"
