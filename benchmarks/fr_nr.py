"""What keeping FRP's vectors saves in training, with the same result. Prints ratios of one run.

python benchmarks/fr_nr.py                                              EfficientNet-Lite0, 64 pairs of 192 x 256
python benchmarks/fr_nr.py --backbone vgg16.tv_in1k --size 384 512      the paper's network and images (GPU)

Both trainings see the same pairs in the same order with the same initial head; one starts from images, the other from
vectors that are computed once before the first epoch. Where the output says so, its time includes that computation.
Weights are random: the cost does not depend on them.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from iqa_lib.devices import best_device
from iqa_lib.losses import mse
from iqa_lib.models import FRNR
from iqa_lib.training import Task, fit


class Rows(Dataset):
    """Tensors with one row a pair; `fit` asks for `(epoch, index)`."""

    def __init__(self, *columns: Tensor):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        return tuple(column[key[1]] for column in self.columns)

    def fingerprint(self) -> str:
        return "rows of a benchmark"


def trained(data: Dataset, backbone: str, epochs: int) -> tuple[FRNR, float]:
    """A model trained on `data`, and the seconds it took."""
    torch.manual_seed(0)
    model = FRNR(backbone=backbone, weights="random", branches=("frp",))
    options = dict(epochs=epochs, batch_size=8, lr=1e-4, optimizer="adam", weight_decay=0.0, schedule="cosine")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        fit(model, [Task(data, mse)], folder=Path(folder), **options)
        return model, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0.in1k")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    torch.manual_seed(1)
    reference = torch.rand(given.pairs, 3, *given.size)
    distorted = (reference + 0.1 * torch.randn_like(reference)).clamp(0, 1)
    scores = torch.linspace(1, 5, given.pairs)

    on_images, seconds = trained(Rows(reference, distorted, scores), given.backbone, given.epochs)
    start = time.perf_counter()
    model, device = FRNR(backbone=given.backbone, weights="random", branches=("frp",)), best_device()
    model.backbone.load_state_dict(on_images.backbone.state_dict())
    model.to(device).eval()
    with torch.no_grad():
        pairs = zip(reference.split(8), distorted.split(8), strict=True)
        vectors = torch.cat([model.pooled(*(x.to(device) for x in pair)).cpu() for pair in pairs])
    once = time.perf_counter() - start
    on_vectors, kept = trained(Rows(vectors, scores), given.backbone, given.epochs)

    heads = zip(on_images.head.parameters(), on_vectors.head.parameters(), strict=True)
    gap = max((a - b).abs().max().item() for a, b in heads)
    print(f"{given.backbone}, {given.pairs} pairs of {given.size[0]} x {given.size[1]}, on {device}")
    print(f"an epoch on images  {seconds / given.epochs:8.3f} s")
    print(f"an epoch on vectors   {kept / given.epochs:8.3f} s   ratio {kept / seconds:.3f}")
    print(f"vectors, once         {once:8.3f} s   {given.epochs} epochs with them: ratio {(once + kept) / seconds:.3f}")
    print(f"largest difference of the heads' weights after training: {gap:.1e}")


if __name__ == "__main__":
    main()
