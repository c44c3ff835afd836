"""Small image sets on disk, and the CPU on one thread; imports no network, for processes that start often."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iqa_lib.data.base import IQADataset, Label, Pair, Triplet


def image_set(folder: Path, sizes: list[tuple[int, int]], pairs: bool = False) -> IQADataset:
    """One record a size `(width, height)`: the pixel at (y, x) is (y, x, noise), so a crop tells where it lies."""
    rng, records = np.random.default_rng(0), []
    for number, (width, height) in enumerate(sizes):
        paths = [folder / f"{number}_{name}.png" for name in ("reference", "a", "b")][: 2 if pairs else 3]
        for path in paths:
            y, x = np.mgrid[:height, :width]
            pixels = np.stack([y, x, rng.integers(256, size=y.shape)], axis=-1).astype(np.uint8)
            Image.fromarray(pixels).save(path)
        label = round(rng.random(), 3)
        records.append((Pair if pairs else Triplet)(*paths, label, f"reference {number}", label))
    return IQADataset("images", "all", records, Label("share", 0, 1, True))


@pytest.fixture(autouse=True, scope="module")
def one_thread_of_the_cpu():
    """Also where there is a GPU, which the tests after these may use again."""
    from accelerate.state import AcceleratorState  # slow to import

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_num_threads(1)
        yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)
