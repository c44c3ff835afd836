"""What AHIQ's released code does otherwise than its paper, by mistake, to data and to the choice of the epoch.

`params/04_ahiq/official_code.yaml` turns all of it on, each by a parameter of notebook 04: crops never reach the far
edges (`last_place`), several are averaged pixel by pixel (`averaged_crops`), each side's labels are scaled by its own
range (`label_range`), an incomplete last test batch is left out (`test_batch_dropped`), and an epoch is kept when SROCC
or PLCC rises (`choose_by`).
"""

from collections.abc import Mapping

import torch
from scipy.stats import pearsonr
from torch import Tensor

from iqa_lib.checks import check_at_least
from iqa_lib.data import IQADataset, protocols
from iqa_lib.losses import negative_srocc
from iqa_lib.views import Crops, crop_places


class ReleasedCrops(Crops):
    """Crops with the settings of `crops`, the data set among them, as the released code draws them.

    `averaged` above 1: a training step sees the pixel by pixel mean of so many random crops, float in [0, 1]. Without
    `last_place` random crops never touch the last row or column, so images must be larger than a crop.
    """

    def __init__(self, crops: Crops, *, averaged: int = 1, last_place: bool = True):
        check_at_least(1, averaged=averaged)
        if averaged > 1 and (crops.draws or crops.protocol != "random"):
            raise ValueError(f"averaged: got {averaged}, expected 1, or protocol 'random' with draws=0")
        super().__init__(**vars(crops) | ({"draws": averaged} if averaged > 1 else {}))
        self.averaged, self.last_place = averaged, last_place

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        *images, target = super().__getitem__(key)
        return *([(image.float() / 255).mean(0) for image in images] if self.averaged > 1 else images), target

    def places(self, image: Tensor, count: int, seed) -> list[tuple[int, int]]:
        if self.last_place or self.protocol != "random":
            return super().places(image, count, seed)
        height, width = image.shape[1:]
        return crop_places("random", height - 1, width - 1, self.size, count, seed)

    def pick(self, rng, count: int) -> list[int]:
        return list(range(self.averaged)) if self.averaged > 1 else super().pick(rng, count)


def scaled_by_side(sides: Mapping[str, IQADataset]) -> dict[str, IQADataset]:
    """Each side's scores brought to [0, 1] by its own lowest and highest; side `cross` as it is."""
    own = {side: protocols.scaled(pairs, *map(float, pairs.targets.aminmax())) for side, pairs in sides.items()}
    return own | {side: pairs for side, pairs in sides.items() if side == "cross"}


def last_batch_dropped(dataset: IQADataset, batch: int) -> IQADataset:
    """The records of whole batches only; all of them for `batch` 0."""
    if not batch:
        return dataset
    kept = dataset.records[: len(dataset) // batch * batch]
    return IQADataset(dataset.name, f"{dataset.split}, last batch dropped", kept, dataset.label)


def negative_srocc_and_plcc(score: Tensor, target: Tensor) -> Tensor:
    """-SROCC and -PLCC over all pairs, `(2,)`, for `iqa_lib.training.fit(select=..., improves=either_rises)`."""
    plcc = pearsonr(score.double().numpy(), target.double().numpy()).statistic
    return torch.stack([negative_srocc(score, target), torch.tensor(-plcc)])


def either_rises(values: list[float], kept: list[float]) -> bool:
    """Whether one of the correlations, here negative, is better than in the epoch kept before."""
    return any(value < before for value, before in zip(values, kept, strict=True))
