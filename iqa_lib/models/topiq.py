"""TOPIQ: CFANet, whose attention lets an image's semantics decide which of its distortions count.

Paper: Chen et al., "TOPIQ: A Top-Down Approach From Semantics to Distortions for Image Quality Assessment", TIP 2024,
https://arxiv.org/abs/2308.03060. The network for full reference; equations 2 and 5 to 8 are here, equation 1 (LPIPS+)
is in `iqa_lib.models.lpips_plus`, the losses in `iqa_lib.losses`.

The defaults are the authors' released network, so that their weights fit (`CFANet.from_author_checkpoint`). It departs
from the paper's equations: attention blocks are pre-norm with a feed-forward (`ffn=False` leaves the equations'
attention and residual), tokens get a position, one more self-attention block comes before the mean over tokens, and
|F_d - F_r| is sqrt((F_d - F_r)^2 + 1e-12). Each released cross-scale block also holds a self-attention that is never
called, 1,052,672 parameters in all; it is not built here.

Decided here, because the paper's ablations were not available to us: `cross_scale="concat"` joins the scales' tokens
with one linear layer, `"none"` scores the deepest scale alone, `glp="average"` pools without a mask, and `ffn=False`
drops normalisation and dropout in every attention block, including the last, but keeps the heads' joint projection.
"""

import copy
import itertools
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from iqa_lib.backbones import Backbone
from iqa_lib.checks import check_choice
from iqa_lib.devices import autocast, device_of
from iqa_lib.files import sha256
from iqa_lib.images import check_images
from iqa_lib.models.rebuild import keeps_options
from iqa_lib.weights import Weights, load_complete, read_checkpoint, renamed

GLPS = ("gated", "average")
CROSS_SCALES = ("top_down", "bottom_up", "concat", "none")


class GatedLocalPooling(nn.Module):
    """One scale's features, masked by their difference (eq. 2), pooled to the deepest scale's size, as tokens.

    `F_mask = sigmoid(phi(|F_d - F_r|)) * cat(F_d, F_r, |F_d - F_r|)`, with a mask of one channel.
    """

    def __init__(self, channels: int, dim: int, *, gated: bool, width: int):
        super().__init__()
        self.mask = None
        if gated:
            sizes = (channels, width, 1), (width, width, 3), (width, 1, 3)
            first, second, last = (nn.Conv2d(*size, padding=size[2] // 2) for size in sizes)
            self.mask = nn.Sequential(first, nn.GELU(), second, nn.GELU(), last, nn.Sigmoid())
        self.project = nn.Sequential(nn.Conv2d(3 * channels, dim, 1), nn.GELU())

    def forward(self, reference: Tensor, distorted: Tensor, size: torch.Size) -> tuple[Tensor, Tensor | None]:
        difference = (distorted - reference).square().add_(1e-12).sqrt_()  # (B, C, h, w)
        mask = None if self.mask is None else self.mask(difference)  # (B, 1, h, w)
        parts = distorted, reference, difference
        parts = [F.adaptive_avg_pool2d(part if mask is None else mask * part, size) for part in parts]
        return self.project(torch.cat(parts, dim=1)), mask  # (B, dim, *size), (B, 1, h, w)


class Attention(nn.Module):
    """Multi-head attention (eq. 6 and 7) with the parameters of `nn.MultiheadAttention`, but memory linear in tokens.

    Torch's own builds the whole map in eval mode: 2 GB for 12 megapixels. Here only `return_map=True` builds it.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, queries: Tensor, tokens: Tensor, *, return_map: bool) -> tuple[Tensor, Tensor | None]:
        dim, weight, bias = queries.shape[-1], self.in_proj_weight, self.in_proj_bias
        q, kv = F.linear(queries, weight[:dim], bias[:dim]), F.linear(tokens, weight[dim:], bias[dim:])
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, *kv.chunk(2, dim=-1)))
        attention, dropout = None, self.dropout if self.training else 0.0
        if return_map:
            attention = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)  # (B, heads, L, L)
            mixed = F.dropout(attention, dropout) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), attention  # (B, L, dim)


class AttentionBlock(nn.Module):
    """`Attn(x, tokens) + x`: with `cross` between two scales (eq. 8), else within one (eq. 5)."""

    def __init__(self, dim: int, heads: int, dropout: float, *, cross: bool, ffn: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim) if ffn else nn.Identity()
        self.norm_tokens = nn.LayerNorm(dim) if ffn and cross else nn.Identity()
        self.attention = Attention(dim, heads, dropout if ffn else 0.0)
        self.dropout = nn.Dropout(dropout if ffn else 0.0)
        self.ffn = None
        if ffn:
            up, down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
            self.ffn = nn.Sequential(nn.LayerNorm(dim), up, nn.GELU(), nn.Dropout(dropout), down, nn.Dropout(dropout))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, tokens: Tensor | None = None, *, return_map: bool = False) -> tuple:
        queries = self.norm(x)
        tokens = queries if tokens is None else self.norm_tokens(tokens)
        mixed, attention = self.attention(queries, tokens, return_map=return_map)
        x = x + self.dropout(mixed)  # (B, L, dim)
        return x if self.ffn is None else x + self.ffn(x), attention


@keeps_options
class CFANet(nn.Module):
    """The coarse-to-fine attention network: shared backbone, gated pooling, attention within and across scales, head.

    Args:
        backbone, taps: Full timm tag of a CNN, and its stages, shallow to deep.
        weights, freeze_backbone: See `iqa_lib.backbones.Backbone`; train nothing of it. Its BatchNorm never trains.
        dim, heads, dropout: Width of the tokens; heads of each attention; dropout in the attention blocks.
        glp: `"gated"` (the paper) or `"average"`.
        self_attention: Self-attention within each scale before cross-attention.
        cross_scale: `"top_down"` (the paper), `"bottom_up"`, `"concat"` or `"none"`.
        ffn: False gives the paper's equations instead of the released blocks.
        mask_width: Channels of the layers that make a mask.

    `model(reference, distorted)` takes images `(B, 3, H, W)` in [0, 1], or what `extract` returns for both, and returns
    scores `(B,)`: higher is better, unbounded, not symmetric. Images can have up to `max_pixels`, which keeps a process
    with one fp32 pair below 8 GiB, without gradients. With `return_maps=True` also a dict, scales counted from the
    shallowest: `mask_0..4` `(B, 1, h_i, w_i)` in (0, 1); `self_attention_0..4` and `cross_attention_i`, i the scale
    attended to, `(B, heads, h, w, h, w)` with `h, w` of the deepest scale: `maps["cross_attention_2"][b, :, y, x]` is
    the attention of the query at `(y, x)` to scale 2. They grow with the square of the image, up to `max_map_pixels`.
    Unknown options, and images of wrong rank, dtype, range or size, raise ValueError.
    """

    higher_is_better = True
    min_size = 32
    max_pixels = 14_000_000
    max_map_pixels = 2_000_000
    max_batch_pixels = 2_000_000  # per image; larger ones go through the backbone one after the other

    def __init__(
        self,
        *,
        backbone: str = "resnet50.a1_in1k",
        taps: tuple[int, ...] = (0, 1, 2, 3, 4),
        weights: str | Path = "auto",
        freeze_backbone: bool = False,
        dim: int = 256,
        heads: int = 4,
        dropout: float = 0.1,
        glp: str = "gated",
        self_attention: bool = True,
        cross_scale: str = "top_down",
        ffn: bool = True,
        mask_width: int = 64,
    ):
        super().__init__()
        check_choice(GLPS, glp=glp)
        check_choice(CROSS_SCALES, cross_scale=cross_scale)
        if dim % 2 or dim % heads:
            raise ValueError(f"dim: got {dim} with heads={heads}, expected an even multiple of heads")
        self.backbone = Backbone(backbone, taps=taps, weights=weights, frozen=freeze_backbone, freeze_batchnorm=True)
        channels, gates = self.backbone.channels, dict(gated=glp == "gated", width=mask_width)
        scales = range(len(channels))
        self.order = {"top_down": scales[::-1], "bottom_up": scales, "concat": scales, "none": scales[-1:]}[cross_scale]
        shape = dict(dim=dim, heads=heads, dropout=dropout, ffn=ffn)
        self.h_emb = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim // 2, 32, 1), std=0.02))
        self.w_emb = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim // 2, 1, 32), std=0.02))
        self.pooling = nn.ModuleDict({str(i): GatedLocalPooling(channels[i], dim, **gates) for i in self.order})
        within = {str(i): AttentionBlock(**shape, cross=False) for i in self.order if self_attention}
        self.self_attention = nn.ModuleDict(within)
        steps = 0 if cross_scale == "concat" else len(self.order) - 1
        self.cross_attention = nn.ModuleList(AttentionBlock(**shape, cross=True) for _ in range(steps))
        self.concat = nn.Linear(len(scales) * dim, dim) if cross_scale == "concat" else None
        self.attention_pool = AttentionBlock(**shape, cross=False)
        layers = [layer for _ in range(2) for layer in (nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())]
        self.head = nn.Sequential(*layers, nn.Linear(dim, 1))

    @classmethod
    def from_author_checkpoint(cls, path: Path | str, **options) -> "CFANet":
        """The network of a file in the authors' layout (514 tensors), in eval mode; options go to the constructor.

        WeightsError if the file cannot be read, or a tensor is missing, unknown or of another shape.
        """
        state = renamed(read_checkpoint(path, "params"), AUTHOR_KEYS)
        state.pop("unused", None)
        model = cls(**{"weights": "random"} | options)
        load_complete(model, state, path)
        model.backbone.weights = Weights("CFANet", "file", Path(path).name, sha256(path))
        return model.eval()

    def folded(self) -> "CFANet":
        """A frozen copy for prediction, with BatchNorm folded into the convolution before it: equal scores, less time.

        For images of one size, `torch.compile` saves another tenth on a CPU, see `benchmarks/topiq.py`.
        """
        model = copy.deepcopy(self).eval().requires_grad_(False)
        for module in model.backbone.modules():
            for (conv_name, conv), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                    setattr(module, norm_name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
        return model

    def extract(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps of images `(B, 3, H, W)`, shallow to deep."""
        return self.backbone(images)

    def forward(self, reference, distorted, *, return_maps: bool = False):
        if isinstance(reference, Tensor):
            most = self.max_map_pixels if return_maps else self.max_pixels
            check_images(reference, distorted, min_size=self.min_size, max_pixels=most, values=not self.training)
            scales = self._extract_both(reference, distorted)
        else:
            scales = list(zip(reference, distorted, strict=True))
        maps, size = {}, scales[-1][0].shape[-2:]
        tokens = self._tokens(scales, size, maps)
        with autocast(device_of(self), "fp32"):  # little work, but most of bf16's error
            score = self._score(tokens, maps, return_maps)
        if not return_maps:
            return score
        attention = {name: x.unflatten(3, size).unflatten(2, size) for name, x in maps.items() if "attention" in name}
        return score, maps | attention

    def _extract_both(self, reference: Tensor, distorted: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both images' maps, scale by scale: from one batch, or from two for large images, to save memory."""
        images = (image.contiguous(memory_format=torch.channels_last) for image in (reference, distorted))
        if reference.shape[2] * reference.shape[3] > self.max_batch_pixels:
            return list(zip(*map(self.extract, images), strict=True))
        return [scale.chunk(2) for scale in self.extract(torch.cat(list(images)))]

    def _tokens(self, scales: list, size: torch.Size, maps: dict) -> dict[int, Tensor]:
        """Tokens `(B, L, dim)` of each scale in use, deep to shallow; each pair of maps leaves `scales` when used."""
        table = torch.cat([self.h_emb.expand(-1, -1, -1, 32), self.w_emb.expand(-1, -1, 32, -1)], dim=1)
        position = F.interpolate(table, size=size, mode="bicubic", align_corners=False)  # (1, dim, *size)
        tokens = {}
        for i in reversed(range(len(scales))):
            pair = scales.pop()  # 2 x (B, C_i, h_i, w_i)
            if i in self.order:
                x, mask = self.pooling[str(i)](*pair, size)
                tokens[i] = (x + position).flatten(2).transpose(1, 2)
                if mask is not None:
                    maps[f"mask_{i}"] = mask
        return tokens

    def _score(self, tokens: dict[int, Tensor], maps: dict, return_maps: bool) -> Tensor:
        """Attention within each scale (eq. 5), then across scales (eq. 8) or a linear layer, then the head."""
        for i, block in self.self_attention.items():
            tokens[int(i)], maps[f"self_attention_{i}"] = block(tokens[int(i)], return_map=return_maps)
        if self.concat is not None:
            x = self.concat(torch.cat([tokens[i] for i in self.order], dim=-1))  # (B, L, dim)
        else:
            x = tokens[self.order[0]]
            for i, block in zip(self.order[1:], self.cross_attention, strict=True):
                x, maps[f"cross_attention_{i}"] = block(x, tokens[i], return_map=return_maps)
        x, _ = self.attention_pool(x)
        return self.head(x.mean(dim=1)).squeeze(1)  # (B,)


class Preference(nn.Module):
    """Triplets judged by a pair model, for BAPPS and PieAPP: `P(B is closer) = sigmoid(d(r, a) - d(r, b))`.

    d is the distance of `CFANet` or `LPIPSPlus`. If a score rises with quality instead, `d = softplus(-score)`:
    positive, as in the authors' network for such data, and the score keeps its direction.

    `preference(reference, a, b)` takes images `(B, 3, H, W)` in [0, 1], or what `model.extract` returns for all three,
    and returns logits `(B,)` that **B** is closer.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, reference, a, b) -> Tensor:
        if isinstance(reference, Tensor):
            limits = dict(min_size=self.model.min_size, max_pixels=self.model.max_pixels)
            check_images(reference, a, b, **limits, values=not self.model.training)
            reference, a, b = map(self.model.extract, (reference, a, b))
        return self._distance(reference, a) - self._distance(reference, b)

    def _distance(self, reference: list[Tensor], distorted: list[Tensor]) -> Tensor:
        score = self.model(reference, distorted)  # (B,)
        return F.softplus(-score) if self.model.higher_is_better else score


_ENCODER = r"^(sa_attn_blks\.\d\.layers\.0|attn_pool)"
_DECODER = r"^(attn_blks\.\d\.layers\.0)"
AUTHOR_KEYS = (
    (rf"{_DECODER}\.self_attn.*", "unused"),
    (rf"{_DECODER}\.multihead_attn", r"\1.attention"),
    (rf"{_DECODER}\.norm2", r"\1.norm_tokens"),
    (rf"{_DECODER}\.norm3", r"\1.ffn.0"),
    (rf"{_ENCODER}\.self_attn", r"\1.attention"),
    (rf"{_ENCODER}\.norm2", r"\1.ffn.0"),
    (r"\.norm1\.", ".norm."),
    (r"\.linear1\.", ".ffn.1."),
    (r"\.linear2\.", ".ffn.4."),
    (r"^sa_attn_blks\.(\d)\.layers\.0", r"self_attention.\1"),
    (r"^attn_blks\.(\d)\.layers\.0", r"cross_attention.\1"),
    (r"^attn_pool", "attention_pool"),
    (r"^semantic_model", "backbone.net.model"),
    (r"^weight_pool\.(\d)", r"pooling.\1.mask"),
    (r"^dim_reduce\.(\d)", r"pooling.\1.project"),
    (r"^score_linear", "head"),
)
"""From the authors' names to ours, applied in this order; no forward pass needs the `unused` tensors."""
