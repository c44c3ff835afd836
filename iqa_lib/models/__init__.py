"""The papers' networks, one file a paper, in the paper's order."""

from iqa_lib.models.ahiq import AHIQ
from iqa_lib.models.fr_nr import FRNR
from iqa_lib.models.iqa_tmfm import IQATMFM, FusedIQATMFM
from iqa_lib.models.lpips_plus import LPIPSPlus
from iqa_lib.models.prfnet import PRFNet
from iqa_lib.models.st_lpips import STLPIPS
from iqa_lib.models.topiq import CFANet, Preference

__all__ = ["AHIQ", "FRNR", "IQATMFM", "STLPIPS", "CFANet", "FusedIQATMFM", "LPIPSPlus", "PRFNet", "Preference"]
