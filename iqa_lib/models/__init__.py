"""The papers' networks, one file a paper, in the paper's order."""

from iqa_lib.models.iqa_tmfm import IQATMFM, FusedIQATMFM
from iqa_lib.models.prfnet import PRFNet

__all__ = ["IQATMFM", "FusedIQATMFM", "PRFNet"]
