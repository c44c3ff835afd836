"""Features of fixed windows, computed once: what turns training on top of a frozen trunk into minutes on a laptop."""

import hashlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from iqa_lib.data.crops import Crops
from iqa_lib.files import atomic, cache_dir, tensors_sha256
from iqa_lib.images import read_image
from iqa_lib.progress import progress
from iqa_lib.training import best_device, to_device


class FixedFeatures(Dataset):
    """A data set seen through fixed windows and a frozen trunk: for each image, what `model.extract` makes of it.

    Takes the place of its `Crops` in training and evaluation, with the same draws and so the same results. Kept in the
    cache folder under a key made of the trunk's weights, the image files and the windows.

    Args:
        crops: Windows by a fixed protocol, without flips.
        model: Has `extract(images) -> list of maps` and a frozen `backbone`.
        max_batch: Windows that go through the trunk at a time.

    Raises:
        ValueError: The trunk is not frozen, or the windows are not fixed.
    """

    def __init__(self, crops: Crops, model: nn.Module, *, max_batch: int = 32):
        if not model.backbone.frozen:
            raise ValueError("features can be kept only of a frozen trunk: freeze it, or train from the images")
        if crops.protocol == "random" or crops.flip:
            raise ValueError(
                f"features can be kept only of fixed windows; came protocol {crops.protocol!r}, flip {crops.flip}"
            )
        self.crops, self.dataset = crops, crops.dataset
        paths = list(crops.dataset.paths())
        file = cache_dir() / "features" / f"{self._key(paths, model)}.safetensors"
        if not file.exists():
            with atomic(file) as temporary:
                save_file(self._compute(paths, model, max_batch), temporary)
        kept = load_file(file)
        self.maps = [kept[f"map{i}"] for i in range(len(kept) - 1)]  # each (windows of all images, C, h, w)
        bounds = kept["bounds"].tolist()
        self.rows = {path: slice(*bounds[i : i + 2]) for i, path in enumerate(paths)}

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        epoch, index = key
        *images, target = self.all(index)
        window = self.crops.draw(epoch, index).integers(len(images[0][0]))
        return *([scale[window] for scale in image] for image in images), target

    def all(self, index: int) -> tuple:
        """Every window of record `index`: a list of maps `(K, C, h, w)` for each image, and the target `()`."""
        record = self.dataset.records[index]
        images = ([scale[self.rows[path]] for scale in self.maps] for path in record.images)
        return *images, torch.tensor(record.target, dtype=torch.float32)

    def _key(self, paths: list, model: nn.Module) -> str:
        digest = hashlib.sha256(
            repr((self.crops.protocol, self.crops.size, self.crops.count, self.crops.enlarge)).encode()
        )
        for path in paths:
            status = path.stat()
            digest.update(f"{path}{status.st_size}{status.st_mtime_ns}".encode())
        digest.update(tensors_sha256(model.backbone.state_dict().items()).encode())
        return digest.hexdigest()[:32]

    @torch.inference_mode()
    def _compute(self, paths: list, model: nn.Module, max_batch: int) -> dict[str, Tensor]:
        parts, waiting, bounds = [], [], [0]
        device = best_device()
        model.to(device).eval()
        for path in progress(paths, "features of the frozen trunk"):
            windows = self.crops.cut(read_image(path))  # (K, 3, h, w)
            bounds.append(bounds[-1] + len(windows))
            waiting.extend(windows)
            while len(waiting) >= max_batch or (waiting and path is paths[-1]):
                batch, waiting = torch.stack(waiting[:max_batch]), waiting[max_batch:]
                parts.append([scale.cpu() for scale in model.extract(to_device(batch, device))])
        maps = {f"map{i}": torch.cat(scale).contiguous() for i, scale in enumerate(zip(*parts, strict=True))}
        return maps | {"bounds": torch.from_numpy(np.array(bounds))}
