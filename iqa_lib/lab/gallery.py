"""One distorted image as the networks of finished runs see it, beside the maps of SSIM and ST-LPIPS.

What a network's map shows at a place depends on the network; how far the map moves when the distorted image takes the
place of the reference itself can be compared. So each network is asked twice, about the reference beside itself and
about the distorted image, and the absolute difference of its two maps is shown: 0 where it sees no distortion.
"""

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
from iqa_lib.data.demo import references
from iqa_lib.data.distortions import distort
from iqa_lib.evaluation import maps_of, maps_of_crops
from iqa_lib.lab.notebook import inside_outside, outline, relative
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
