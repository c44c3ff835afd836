"""The papers' networks, one file a paper, in the paper's order; a file is imported when its network is first used."""

from importlib import import_module

_FILES = {
    "AHIQ": "ahiq",
    "FRNR": "fr_nr",
    "IQATMFM": "iqa_tmfm",
    "STLPIPS": "st_lpips",
    "CFANet": "topiq",
    "FusedIQATMFM": "iqa_tmfm",
    "LPIPSPlus": "lpips_plus",
    "PRFNet": "prfnet",
    "Preference": "topiq",
}
__all__ = [*_FILES]


def __getattr__(name: str) -> type:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
