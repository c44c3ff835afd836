"""The gallery: what each network's map moves by, on tiny networks and real distortions."""

import dataset_trees
import pandas as pd
import pytest
import torch
from image_sets import one_thread_of_the_cpu  # noqa: F401

from iqa_lib.backbones import PACKAGED
from iqa_lib.data import load
from iqa_lib.files import write_json
from iqa_lib.lab import gallery, notebook, plan, records
from iqa_lib.models import AHIQ, FRNR, IQATMFM, CFANet, FusedIQATMFM, PRFNet

ON_PACKAGED = dict(backbone=PACKAGED, weights="packaged")
TMFM = dict(crop=64, dim=16, heads=2, head_dim=8, hidden=32)
NETWORKS = {
    "IQA-TMFM": lambda: FusedIQATMFM(IQATMFM(**ON_PACKAGED, **TMFM), 1),
    "PRFNet": lambda: PRFNet(**ON_PACKAGED, se=False, width=8, hidden=8),
    "AHIQ": lambda: AHIQ(cnn="packaged", cnn_weights="packaged", fusion="cnn", width=1 / 64),
    "FR+NR": lambda: FRNR(**ON_PACKAGED, branches=("frp", "frnp"), hidden=(8,)),
    "CFANet": lambda: CFANet(**ON_PACKAGED, taps=(1, 2, 3, 4), dim=8, mask_width=8, ffn=False),
}


@pytest.fixture(scope="module")
def images():
    return gallery.pair()


def test_nothing_but_the_blocks_differs(images):
    reference, distorted = images
    assert reference.shape == distorted.shape == (3, 384, 512)
    assert (reference.min(), reference.max()) == (0, 1)
    differs = (reference != distorted).any(0)
    assert 0.05 < differs.float().mean() < 10 * 32**2 / (384 * 512) + 1e-6
    assert not (notebook.touched(*images) & ~differs).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_brighter_where_the_image_was_distorted(images, name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    title, found = gallery.map_of_network(model, *images)
    assert title.startswith(name)
    assert found.shape[:2] == (1, 1)
    assert found.min() >= 0
    (means,) = notebook.inside_outside(images, {title: found}).itertuples()
    assert means.inside > 2 * means.outside
    assert gallery.map_of_network(model, images[0], images[0])[1].max() == 0


def test_metrics_are_brighter_where_the_image_was_distorted(images):
    found = gallery.maps_of_metrics(*images)
    assert (notebook.inside_outside(images, found).ratio > 5).all()
    assert all(values.abs().max() < 1e-5 for values in gallery.maps_of_metrics(images[0], images[0]).values())


def test_the_figure_shows_all_runs_with_their_ratios(images, monkeypatch):
    monkeypatch.setattr(gallery, "load_run", lambda run: (NETWORKS[run]().eval(), {}))
    maps = gallery.maps_of_all(["FR+NR", "AHIQ"], *images)
    titles = [axis.get_title() for axis in gallery.figure(*images, maps).axes]
    starts = ["reference", "distorted", "SSIM", "ST-LPIPS", "FR+NR", "AHIQ", ""]
    assert [title.partition(":")[0] for title in titles] == starts
    assert all("inside / outside: " in title for title in titles[2:-1])


def test_figure_2_of_fr_nr_is_drawn_from_its_three_runs(tmp_path, monkeypatch):
    for name in ("kadid10k", "pipal"):
        getattr(dataset_trees, name)(tmp_path / "data" / name)
    monkeypatch.setattr(records, "repo_root", lambda: tmp_path)
    table, cross = plan.specifications()["fr_nr_figure2"], load("pipal", tmp_path / "data/pipal", split="all")
    given = {"dataset": "kadid10k", "cross": "pipal", "data_root": str(tmp_path / "data"), "split_by": "reference"}
    predictions = pd.DataFrame({"side": "cross", "prediction": range(len(cross)), "target": cross.targets})
    for row in table["rows"]:
        folder = tmp_path / records.folder("paper", row["run"], 0)
        folder.mkdir(parents=True)
        predictions.to_csv(folder / records.PREDICTIONS)
        written = {key: {} for key in records.KEYS} | {
            "notebook": "05_fr_nr",
            "parameters": given | {"seed": 0, "split": -1},
        }
        written["data"] = {"cross": {"fingerprint": cross.fingerprint()}}
        write_json(folder / records.RECORD, written)
    notes = [axis.get_xlabel() for axis in gallery.ranks(table, "paper").axes]
    assert notes[0] == "human: 1.43e+03 (1)\nFRP: 6 (3)\nFRP + FRNP: 6 (3)\nFRP + FRNP + NR: 6 (3)"
    write_json(folder / records.RECORD, written | {"data": {"cross": {"fingerprint": "other"}}})
    with pytest.raises(
        ValueError, match=r"FRP, FRP \+ FRNP, FRP \+ FRNP \+ NR: tested on other records than pipal holds"
    ):
        gallery.ranks(table, "paper")
    (folder / records.RECORD).unlink()
    with pytest.raises(ValueError, match=r"table2_all/seed0 holds no run\.json"):
        gallery.ranks(table, "paper")
