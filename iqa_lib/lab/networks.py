"""The metrics that can be asked for by name: this repository's networks and the baselines. Imports no torch."""

from dataclasses import dataclass

import pandas as pd

from iqa_lib import baselines
from iqa_lib.baselines import BASELINES


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
    own = [
        {
            "metric": name,
            "better": "P(B closer)" if network.triplets else "higher",
            "range": "0 to 1" if network.triplets else "no bounds",
            "needs": "--checkpoint " + ("FILE of the authors, or RUN FOLDER" if network.authors else "RUN FOLDER"),
        }
        for name, network in NETWORKS.items()
    ]
    rows = [
        {
            "metric": name,
            "better": "higher" if baseline.higher_is_better else "lower",
            "range": f"{baseline.low:g} to {baseline.high:g}",
            "needs": "nothing" if baselines.available(name) else "--checkpoint FILE, or to go online once",
        }
        for name, baseline in BASELINES.items()
    ]
    return pd.DataFrame(own + rows).set_index("metric")
