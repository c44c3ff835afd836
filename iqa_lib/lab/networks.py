"""The metrics that can be asked for by name: this repository's networks and the baselines. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from iqa_lib import baselines
from iqa_lib.baselines import BASELINES
from iqa_lib.lab.parameters import ParameterError


@dataclass(frozen=True)
class Network:
    """A network of this repository."""

    model: str  # its class in `iqa_lib.models`
    notebook: str  # the notebook that trains it
    triplets: bool = False  # says which of two images is closer instead of scoring one
    authors: bool = False  # has `from_author_checkpoint`
    file: str = ""  # what the authors call their checkpoint


NETWORKS = {
    "topiq-fr": Network("CFANet", "06_topiq", authors=True, file="cfanet_fr_kadid_res50-2c4cc61d.pth"),
    "ahiq": Network("AHIQ", "04_ahiq", authors=True, file="AHIQ_vit_p8_epoch33-da3ea303.pth"),
    "iqa-tmfm": Network("IQATMFM", "02_iqa_tmfm", triplets=True, authors=True),
    "prfnet": Network("PRFNet", "03_prfnet", triplets=True),
    "fr-nr": Network("FRNR", "05_fr_nr"),
}


def available() -> pd.DataFrame:
    """All metrics by name: direction, range, and what each still needs on this machine."""
    rows = {}
    for name, network in NETWORKS.items():
        better, bounds = ("P(B closer)", "0 to 1") if network.triplets else ("higher", "no bounds")
        rows[name] = better, bounds, "--checkpoint " + "FILE of the authors, or " * network.authors + "RUN FOLDER"
    for name, baseline in BASELINES.items():
        needs = "nothing" if baselines.available(name) else "--checkpoint FILE, or to go online once"
        rows[name] = "higher" if baseline.higher_is_better else "lower", f"{baseline.low:g} to {baseline.high:g}", needs
    return pd.DataFrame(rows, index=["better", "range", "needs"]).T.rename_axis("metric")


def metric_names(metrics: str, auto: Sequence[str] = ()) -> list[str]:
    """The names in a parameter such as `"psnr, ssim"`; under `"auto"` those of `auto`. One unknown: ParameterError."""
    names = list(auto) if metrics == "auto" else [name.strip() for name in metrics.split(",")]
    if unknown := sorted(set(names) - set(BASELINES)):
        raise ParameterError(f"metrics: got {', '.join(unknown)}, expected names among {', '.join(BASELINES)}")
    return names
