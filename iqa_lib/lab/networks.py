"""The metrics that can be asked for by name: this repository's networks and the baselines. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from iqa_lib import baselines
from iqa_lib.baselines import BASELINES
from iqa_lib.lab.parameters import ParameterError
from iqa_lib.weights import AUTHORS, PACKAGES, authors_file

DEFAULT = "st-lpips-alex"
"""The metric if none is named: it learnt from people's answers, and its weights come with an installed package."""


@dataclass(frozen=True)
class Network:
    """A network of this repository."""

    model: str  # its class in `iqa_lib.models`
    notebook: str  # the notebook that trains it
    triplets: bool = False  # says which of two images is closer instead of scoring one
    authors: bool = False  # has `from_author_checkpoint`


NETWORKS = {
    "topiq-fr": Network("CFANet", "06_topiq", authors=True),
    "topiq-fr-pipal": Network("CFANet", "06_topiq", authors=True),
    "ahiq": Network("AHIQ", "04_ahiq", authors=True),
    "iqa-tmfm": Network("IQATMFM", "02_iqa_tmfm", triplets=True, authors=True),
    "prfnet": Network("PRFNet", "03_prfnet", triplets=True),
    "fr-nr": Network("FRNR", "05_fr_nr"),
}


def available() -> pd.DataFrame:
    """All metrics by name: direction, range, whether all they need is on this machine, and what else gives it."""
    rows = {}
    for name, network in NETWORKS.items():
        better, bounds = ("P(B closer)", "0 to 1") if network.triplets else ("higher", "no bounds")
        needs = "--checkpoint " + "FILE of the authors or " * network.authors + "RUN FOLDER"
        if name in AUTHORS:
            needs = f"to go online once, or {needs}; the authors' file: {AUTHORS[name][1]}"
        rows[name] = better, bounds, name in AUTHORS and authors_file(name) is not None, needs
    for name, baseline in BASELINES.items():
        needs = "to go online once, or --checkpoint FILE" if baseline.needs_weights and name not in PACKAGES else ""
        better, bounds = "higher" if baseline.higher_is_better else "lower", f"{baseline.low:g} to {baseline.high:g}"
        rows[name] = better, bounds, baselines.available(name), needs
    return pd.DataFrame(rows, index=["better", "range", "here", "needs"]).T.rename_axis("metric")


def metric_names(metrics: str, auto: Sequence[str] = ()) -> list[str]:
    """The names in a parameter such as `"psnr, ssim"`; under `"auto"` those of `auto`. One unknown: ParameterError."""
    names = list(auto) if metrics == "auto" else [name.strip() for name in metrics.split(",")]
    if unknown := sorted(set(names) - set(BASELINES)):
        raise ParameterError(f"metrics: got {', '.join(unknown)}, expected names among {', '.join(BASELINES)}")
    return names
