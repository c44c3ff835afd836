"""Figures made of several finished runs: `python -m iqa_lib.lab.gallery SCALE TABLE` draws that of a table (`figure`).

`figure` is one distorted image as their networks see it, beside the maps of SSIM and ST-LPIPS.

What a network's map shows at a place depends on the network; how far the map moves when the distorted image takes the
place of the reference itself can be compared. So each network is asked twice, about the reference beside itself and
about the distorted image, and the absolute difference of its two maps is shown: 0 where it sees no distortion.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from iqa_lib import plots
from iqa_lib.baselines import luma
from iqa_lib.data import protocols
from iqa_lib.data.demo import references
from iqa_lib.data.distortions import distort
from iqa_lib.evaluation import maps_of, maps_of_crops
from iqa_lib.files import atomic
from iqa_lib.lab import plan, records, tables
from iqa_lib.lab.notebook import inside_outside, of_one_reference, outline, relative, sides_of
from iqa_lib.lab.runs import Run
from iqa_lib.lab.trained import load_run
from iqa_lib.models import AHIQ, FRNR, IQATMFM, STLPIPS, CFANet, FusedIQATMFM, PRFNet

SHOWN = {
    IQATMFM: ("IQA-TMFM: answer of each crop", "answer"),
    PRFNet: ("PRFNet: gate of the finest scale", "gate_w2"),
    AHIQ: ("AHIQ: score map", "score"),
    FRNR: ("FR+NR: learnt differences", "frnp_2"),
    CFANet: ("CFANet: mask of the second scale", "mask_1"),
}
"""By network, the title of its map and the map's name."""
STRETCH_ALONE = (18, 3)  # type and level of a mean shift by 0


def pair(reference: str = "chelsea", kind: int = 23, level: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A demo reference by the start of its name, and a distorted version of it, `(3, H, W)` in [0, 1].

    The default, colour blocks on the cat, is a reference that the demo's split 0 holds out. Both images are stretched
    to the full range as KADID-10k's frame does, so that nothing but the distortion differs.
    """
    image = next(source for source in references() if source.name.startswith(reference)).render()
    images = distort(image, *STRETCH_ALONE), distort(image, kind, level, np.random.default_rng(seed))
    return tuple(torch.tensor(pixels).permute(2, 0, 1).float() / 255 for pixels in images)


@torch.inference_mode()
def maps_of_metrics(reference: Tensor, distorted: Tensor) -> dict[str, Tensor]:
    """Where SSIM and ST-LPIPS see a distortion: 1 - SSIM, and its distances summed over layers, `(1, 1, h, w)` both."""
    pair = (luma(image[None]) for image in (distorted, reference))
    _, ssim = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
    _, layers = maps_of(STLPIPS(net="alex"), reference, distorted)
    finest = layers["distance_0"].shape[-2:]
    distance = sum(F.interpolate(layer, size=finest, mode="bilinear") for layer in layers.values())
    return {"SSIM: 1 - SSIM": 1 - ssim, "ST-LPIPS: distance": distance}


def map_of_network(model: nn.Module, reference: Tensor, distorted: Tensor) -> tuple[str, Tensor]:
    """The title of a network's map, and how far it moves when the distorted image takes the place of the reference."""
    model = model.network if isinstance(model, FusedIQATMFM) else model
    title, name = SHOWN[type(model)]
    return title, (_asked(model, name, reference, distorted) - _asked(model, name, reference, reference)).abs()


def _asked(model: nn.Module, name: str, reference: Tensor, distorted: Tensor) -> Tensor:
    """The named map of a pair; triplet networks compare the distorted image, as B, with the reference itself."""
    images = [reference, distorted] if hasattr(model, "higher_is_better") else [reference, reference, distorted]
    if isinstance(model, IQATMFM):
        _, answers, maps = maps_of_crops(model, model.crop, *images)
        return (maps | {"answer": answers})[name].cpu()
    return maps_of(model, *images)[1][name].cpu()


def maps_of_all(runs: Iterable[Path | str], reference: Tensor, distorted: Tensor) -> dict[str, Tensor]:
    """The maps `(1, 1, h, w)` of SSIM, ST-LPIPS and the networks of finished runs, by title; brighter: more distorted.

    Errors are those of `iqa_lib.lab.trained.load_run`; a network without such a map raises KeyError.
    """
    networks = (load_run(run)[0] for run in runs)
    found = dict(map_of_network(model, reference, distorted) for model in networks)
    return maps_of_metrics(reference, distorted) | found


def figure(reference: Tensor, distorted: Tensor, maps: dict[str, Tensor]) -> Figure:
    """Both images, and maps in units of their mean with the ratio of their means inside and outside the distortion."""
    ratios = inside_outside([reference, distorted], maps).ratio
    shown = {f"{title}\ninside / outside: {ratios[title]:.3g}": relative(values) for title, values in maps.items()}
    images = {"reference": reference, "distorted": distorted}
    return plots.images_and_maps(images, shown, bars="figure", outline=outline(reference, distorted))


def ranks(table: dict, scale: str) -> Figure:
    """Pairs of one reference, with score and rank by human scores and by a table's rows, each by its run of seed 0.

    The data set is read anew by the last row's parameters: `DataError` if it is not there. ValueError if a row is not
    run, or was tested on other records.
    """
    side = plan.columns(table, scale)[0]["side"]
    found = {row["label"]: records.read(records.folder(scale, row["run"], 0)) for row in table["rows"]}
    *_, last = found.values()
    run = Run(last["notebook"], last["parameters"], last["folder"])
    dataset = sides_of(run, protocols.scored, by=last["parameters"]["split_by"])[side]
    tested = {record["data"][side]["fingerprint"] for record in found.values()}
    if tested != {dataset.fingerprint()}:
        raise ValueError(f"{', '.join(found)}: tested on other records than {dataset.name} holds now: run them again")
    predictions = {label: records.predictions(record["folder"], side) for label, record in found.items()}
    return plots.ranks(dataset, of_one_reference(dataset), predictions)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.lab.gallery", description="Draw a table's own figure.")
    parser.add_argument("scale", help="folder in outputs/, such as demo")
    parser.add_argument("table", help="one of params/tables.yaml that asks for a figure")
    arguments = parser.parse_args()
    file = tables.folder(arguments.scale) / f"{arguments.table}.png"
    drawn = ranks(plan.specifications()[arguments.table], arguments.scale)
    with atomic(file) as temporary:
        drawn.savefig(temporary, dpi=100)
    print(f"-> {file}")


if __name__ == "__main__":
    main()
