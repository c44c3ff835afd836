"""Features of fixed windows, computed once: what turns training on top of a frozen trunk into minutes on a laptop."""

import hashlib
from itertools import accumulate
from pathlib import Path
from random import SystemRandom

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from iqa_lib.data.base import IQADataset
from iqa_lib.data.crops import Crops
from iqa_lib.files import atomic, cache_dir, file_key, tensors_sha256
from iqa_lib.images import read_image
from iqa_lib.progress import progress
from iqa_lib.training import best_device, to_device

_SHARES = ("01", "23", "45", "67", "89", "ab", "cd", "ef")
"""First digits of a file's name: runs that want the same features at once make each share once between them."""


class WithScores(Dataset):
    """Views of a data set with one input more: other metrics' scores of each record.

    Args:
        views: `Crops` or `FixedFeatures`.
        scores: A row a record, `(N, ...)`.
    """

    def __init__(self, views: Dataset, scores: Tensor):
        if len(views) != len(scores):
            raise ValueError(f"scores came for {len(scores)} records; wanted one row for each of {len(views)}")
        self.views, self.dataset, self.scores = views, views.dataset, scores

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        *images, target = self.views[key]
        return *images, self.scores[key[1]], target

    def fingerprint(self) -> tuple:
        return "scores", self.views.fingerprint(), tensors_sha256([("scores", self.scores)])


class Vectors(Dataset):
    """One vector a record, all that a small network on top of a frozen one needs to see.

    Args:
        dataset: The records, with their targets.
        values: A row a record, `(N, D)`.
    """

    def __init__(self, dataset: IQADataset, values: Tensor):
        if len(dataset) != len(values):
            raise ValueError(f"vectors came for {len(values)} records; wanted one for each of {len(dataset)}")
        self.dataset, self.values = dataset, values

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self.values[key[1]], torch.tensor(self.dataset.records[key[1]].target, dtype=torch.float32)

    def fingerprint(self) -> tuple:
        return "vectors", self.dataset.fingerprint(), tensors_sha256([("values", self.values)])


class FixedFeatures(Dataset):
    """A data set seen through fixed windows and a frozen trunk: for each image, what `model.extract` makes of it.

    Takes the place of its `Crops` in training and evaluation, with the same draws and so the same results. Kept in the
    cache folder, a file an image, under a key made of the trunk's weights and the windows.

    Args:
        crops: Windows by a fixed protocol, neither flipped nor turned.
        model: Has `extract(images) -> list of maps` and a frozen `backbone`. Where that is a `ModuleDict` of trunks,
            each makes one of the maps; they are kept apart, and models share those of a trunk that both have.
        max_batch: Windows of an image that go through the trunk at a time.

    Raises:
        ValueError: The trunk is not frozen, or the windows are not fixed.
    """

    def __init__(self, crops: Crops, model: nn.Module, *, max_batch: int = 32):
        if not model.backbone.frozen:
            raise ValueError("features can be kept only of a frozen trunk: freeze it, or train from the images")
        if crops.protocol == "random" or crops.flip != "none" or crops.turn:
            raise ValueError(
                f"features can be kept only of fixed windows; came protocol {crops.protocol!r}, flip {crops.flip}, "
                f"turn {crops.turn}"
            )
        self.crops, self.dataset = crops, crops.dataset
        parts = model.backbone.values() if isinstance(model.backbone, nn.ModuleDict) else [model]
        kept = [self._kept(part, max_batch) for part in parts]  # for each part: for each image its maps
        paths, counts = list(self.dataset.paths()), [len(maps[0]) for maps in kept[0]]
        self.maps = [
            torch.cat(scale) for images in kept for scale in zip(*images, strict=True)
        ]  # (windows, C, h, w) each
        bounds = [0, *accumulate(counts)]
        self.rows = {path: slice(*bounds[i : i + 2]) for i, path in enumerate(paths)}

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        epoch, index = key
        *images, target = self.all(index)
        picked = self.crops.pick(self.crops.draw(epoch, index), len(images[0][0]))
        window = picked if self.crops.draws else picked[0]
        return *([scale[window] for scale in image] for image in images), target

    def fingerprint(self) -> tuple:
        return "features", self.crops.fingerprint()

    def all(self, index: int) -> tuple:
        """Every window of record `index`: a list of maps `(K, C, h, w)` for each image, and the target `()`."""
        record = self.dataset.records[index]
        images = ([scale[self.rows[path]] for scale in self.maps] for path in record.images)
        return *images, torch.tensor(record.target, dtype=torch.float32)

    def _kept(self, part: nn.Module, max_batch: int) -> list[list[Tensor]]:
        """For each image its maps `(K, C, h, w)`, of a model with one trunk or of a single trunk."""
        paths, folder = list(self.dataset.paths()), self._folder(part)
        files = [folder / f"{file_key(path)}.safetensors" for path in paths]
        folder.mkdir(parents=True, exist_ok=True)
        for digits in SystemRandom().sample(_SHARES, len(_SHARES)):
            with FileLock(folder / f".{digits}.lock"):
                mine = {path: file for path, file in zip(paths, files, strict=True) if file.name[0] in digits}
                missing = {path: file for path, file in mine.items() if not file.exists()}
                self._compute(missing, part, max_batch)
        kept = [load_file(file) for file in progress(files, "reading features")]
        return [[maps[f"map{i}"] for i in range(len(maps))] for maps in kept]

    def _folder(self, part: nn.Module) -> Path:
        """The cache folder of this trunk under these windows."""
        seen = self.crops.protocol, self.crops.size, self.crops.count, self.crops.enlarge
        backbone = getattr(part, "backbone", part)
        state = tensors_sha256((*backbone.state_dict().items(), *backbone.named_buffers()))
        trunk = type(part).__qualname__, repr(backbone), state
        return cache_dir() / "features" / hashlib.sha256(repr((seen, trunk)).encode()).hexdigest()[:16]

    @torch.inference_mode()
    def _compute(self, missing: dict[Path, Path], part: nn.Module, max_batch: int) -> None:
        """Put the windows of the images through the trunk and keep each image's maps in its file.

        Image by image: what shares a batch changes a convolution's last bits, and no other image may change these.
        """
        device = best_device()
        part.to(device).eval()
        extract = getattr(part, "extract", lambda images: [part(images)])
        for path, file in progress(missing.items(), "features of the frozen trunk"):
            batches = self.crops.cut(read_image(path)).split(max_batch)
            parts = [[scale.cpu() for scale in extract(to_device(batch, device))] for batch in batches]
            maps = [torch.cat(scale) for scale in zip(*parts, strict=True)]  # (K, C, h, w) each
            with atomic(file) as temporary:
                save_file({f"map{i}": scale for i, scale in enumerate(maps)}, temporary)
