"""IQA-TMFM: which of two distorted images is closer to the reference, by transformers and a fusion of metrics.

Paper: "Image Quality Assessment with Transformers and Multi-Metric Fusion Modules", CVPRW (CLIC) 2022. Code released
by the authors: JiangWeibeta/IQA-TMFM, without weights. In the paper's order: frozen features, nonlinear residual module
(NRM), one encoder and decoder per scale, mean over crops, multi-metric fusion module (MFM).

Where paper and released code differ, `preset` chooses:

- decoder: the paper feeds it the reference's features, to emphasise the reference. The released code masks its
  self-attention causally and reads only token 0, which then sees nothing but itself: the reference stream has exactly
  no influence, and 338,176 parameters never learn. `preset="paper"` has no mask, `"official_code"` the causal one.

Decided here:

- the released code has no fusion: its inputs, their order and standardisation are ours (`FusedIQATMFM`).
- the released code averages groups of 4 crops only; here any number.
- images are normalised to [-1, 1] as in the code (the paper does not say), although the backbone was trained with
  ImageNet's statistics; `norm="imagenet"` uses those.
- only token 0 leaves the decoder, so its last layer computes no other: the same numbers at less cost.
"""

from itertools import pairwise
from pathlib import Path

import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from iqa_lib.backbones import Backbone, taps_at
from iqa_lib.checks import check_choice
from iqa_lib.images import check_images
from iqa_lib.models.cheng2020 import Cheng2020Anchor
from iqa_lib.models.rebuild import keeps_options
from iqa_lib.weights import load_complete, read_checkpoint, renamed

PRESETS = {"paper": {"decoder_mask": "none"}, "official_code": {"decoder_mask": "causal"}}
RESIDUALS = ("nonlinear", "subtract")
DECODER_MASKS = ("none", "causal")
METRIC_INPUTS = ("pair", "difference")
ACTIVATIONS = ("relu", "gelu")
CODECS = tuple(f"cheng2020_anchor.q{quality}" for quality in range(1, 7))
METRICS = ("lpips-alex", "lpips-vgg", "lpips-squeeze", "dists", "psnr", "ms-ssim", "gmsd", "vifp")
"""The inputs of the MFM: the metrics that Table 1 and the paper's figure name, as `iqa_lib.baselines` calls them."""


class NonlinearResidual(nn.Module):
    """The NRM, a learnt difference of features: `r_X = GELU(Conv1x1(cat[f_X, f_R]))`."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, distorted: Tensor, reference: Tensor) -> Tensor:
        return F.gelu(self.conv(torch.cat([distorted, reference], dim=1)))  # (B, C, h, w)


class Subtraction(nn.Module):
    """Table 2's "w/o NRM": `r_X = f_X - f_R`."""

    def forward(self, distorted: Tensor, reference: Tensor) -> Tensor:
        return distorted - reference


class Attention(nn.Module):
    """Multi-head attention `softmax(Q K^T / sqrt(head_dim)) V`, with dropout on its weights and on its output."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, heads * head_dim) for _ in range(3))
        self.out = nn.Linear(heads * head_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, tokens: Tensor, *, causal: bool = False) -> Tensor:
        q, k, v = self._split(self.query(queries)), self._split(self.key(tokens)), self._split(self.value(tokens))
        if tokens.shape[1] == 1:  # the softmax is constant: written out, so that rounding gives Q and K no gradient
            mixed = self.dropout((q @ k.mT).softmax(dim=-1)) @ v
        else:
            dropout = self.dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)  # (B, heads, Q, d)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))  # (B, Q, dim)

    def weights(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Attention weights `(B, heads, queries, tokens)`; each row sums to 1."""
        q, k = self._split(self.query(queries)), self._split(self.key(tokens))
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, head_dim)


class FeedForward(nn.Sequential):
    def __init__(self, dim: int, hidden: int, dropout: float):
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout))


class EncoderLayer(nn.Module):
    """Post-norm: `x = LN(x + attention(x))`, `x = LN(x + FFN(x))`, with the code's epsilon of 0.01."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int, dropout: float):
        super().__init__()
        self.attention = Attention(dim, heads, head_dim, dropout)
        self.ffn = FeedForward(dim, hidden, dropout)
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x))
        return self.norm2(x + self.ffn(x))  # (B, N + 1, dim)


class DecoderLayer(nn.Module):
    """Post-norm: self-attention, attention to the encoder's tokens (`memory`), FFN."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int, dropout: float, causal: bool):
        super().__init__()
        self.causal = causal
        self.attention, self.cross = (Attention(dim, heads, head_dim, dropout) for _ in range(2))
        self.ffn = FeedForward(dim, hidden, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-2) for _ in range(3))

    def forward(self, x: Tensor, memory: Tensor, read: int | None) -> tuple[Tensor, Tensor]:
        """The first `read` tokens of the output (None: all), and the queries of the attention to `memory`."""
        first = x[:, :read]
        seen = first if self.causal else x  # causally, no token sees the ones after it
        queries = self.norm1(first + self.attention(first, seen, causal=self.causal))
        x = self.norm2(queries + self.cross(queries, memory))
        return self.norm3(x + self.ffn(x)), queries  # (B, read, dim) both


class Tokens(nn.Module):
    """A map as a sequence: 1x1 projection, class token in front, learnt positions, dropout."""

    def __init__(self, channels: int, positions: int, dim: int, dropout: float):
        super().__init__()
        self.projection = nn.Conv2d(channels, dim, 1)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, positions + 1, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x).flatten(2).transpose(1, 2)  # (B, h * w, dim)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.dropout(x + self.positions)  # (B, h * w + 1, dim)


class ScaleTransformer(nn.Module):
    """One scale's transformer: encoder over the pair of residuals, decoder over the reference, logit from token 0."""

    def __init__(self, channels: int, positions: int, *, layers: int, causal: bool, dim: int, dropout: float, **sizes):
        super().__init__()
        sizes |= dict(dim=dim, dropout=dropout)
        self.residual_tokens = Tokens(2 * channels, positions, dim, dropout)
        self.reference_tokens = Tokens(channels, positions, dim, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(**sizes) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(**sizes, causal=causal) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, 1, bias=False))

    def forward(self, residuals: Tensor, reference: Tensor, *, return_maps: bool = False):
        memory = self.residual_tokens(residuals)
        for layer in self.encoder:
            memory = layer(memory)  # (B, N + 1, dim)
        x = self.reference_tokens(reference)
        for layer in self.decoder:
            x, queries = layer(x, memory, read=1 if layer is self.decoder[-1] else None)
        logit = self.head(x[:, 0]).squeeze(1)  # (B,)
        if not return_maps:
            return logit
        attention = self.decoder[-1].cross.weights(queries, memory)[:, :, 0, 1:]  # (B, heads, N)
        return logit, attention.unflatten(2, residuals.shape[-2:])


@keeps_options
class IQATMFM(nn.Module):
    """The triplet network of the paper's first stage: everything but the fusion of metrics.

    Args:
        preset: `"paper"` or `"official_code"`, see the module's docstring.
        backbone: Full timm tag, tapped at strides 8 and 16 and cut there, always frozen; or Table 2's
            `"cheng2020_anchor.q6"`, the analysis transform of a learnt codec (quality 1 to 6).
        weights: See `iqa_lib.backbones.Backbone` and `iqa_lib.models.cheng2020.Cheng2020Anchor`.
        norm: See `Backbone`; the codec's input is [0, 1], not normalised.
        crop: Side of the square crops in pixels, a multiple of 16; it sets the size of the position tables.
        residual: `"nonlinear"` (NRM) or `"subtract"` (Table 2's "w/o NRM").
        decoder_mask: `"none"` or `"causal"`; None: as the preset says.
        dim, hidden: Width of the tokens, and of the feed-forward layers.
        layers, heads, head_dim: Layers of encoder and of decoder; heads of each attention, and their width.
        dropout: Of embeddings, attention weights, attention and feed-forward outputs.

    `model(reference, a, b)` takes crops `(B, 3, S, S)` in [0, 1], or `(B, n, 3, S, S)`: n crops of a triplet, whose
    logits are averaged; or what `extract` returns for each of the three. It returns the logit `(B,)` that **B** is
    closer, the mean over crops and both scales. With `return_maps=True` also a dict with one row per crop:
    `attention_2x`, `attention_3x` `(B * n, heads, h, w)`, the output token's attention to the pair's residuals (with
    the class token's share each head sums to 1); `residual_a_2x` ... `residual_b_3x` `(B * n, C, h, w)`; `logit_2x`,
    `logit_3x` `(B * n,)`. Swapping A and B does not exactly negate the logit: the paper's network is not symmetric.
    Unknown options, and images of wrong rank, dtype, range or size, raise ValueError.
    """

    scales = ("2x", "3x")

    def __init__(
        self,
        *,
        preset: str = "paper",
        backbone: str = "convnext_tiny.fb_in1k",
        weights: str = "auto",
        norm: str = "half",
        crop: int = 224,
        residual: str = "nonlinear",
        decoder_mask: str | None = None,
        dim: int = 128,
        heads: int = 4,
        head_dim: int = 128,
        hidden: int = 1024,
        layers: int = 1,
        dropout: float = 0.1,
    ):
        super().__init__()
        check_choice(PRESETS, preset=preset)
        decoder_mask = decoder_mask or PRESETS[preset]["decoder_mask"]
        check_choice(RESIDUALS, residual=residual)
        check_choice(DECODER_MASKS, decoder_mask=decoder_mask)
        if crop < 16 or crop % 16:
            raise ValueError(f"crop: got {crop}, expected a multiple of 16, the deepest map's stride")
        self.crop = self.min_size = crop
        if backbone in CODECS:
            self.backbone = Cheng2020Anchor(quality=CODECS.index(backbone) + 1, weights=weights)
        else:
            self.backbone = Backbone(backbone, taps=taps_at(backbone, (8, 16)), weights=weights, frozen=True, norm=norm)
        channels = self.backbone.channels
        nonlinear = residual == "nonlinear"
        self.residual = nn.ModuleList(NonlinearResidual(c) if nonlinear else Subtraction() for c in channels)
        sizes = dict(dim=dim, heads=heads, head_dim=head_dim, hidden=hidden, layers=layers, dropout=dropout)
        self.transformers = nn.ModuleList(
            ScaleTransformer(c, (crop // stride) ** 2, causal=decoder_mask == "causal", **sizes)
            for c, stride in zip(channels, self.backbone.strides, strict=True)
        )

    def extract(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps at strides 8 and 16 of crops `(B, 3, S, S)`."""
        return self.backbone(images)

    def forward(self, reference, a, b, *, return_maps: bool = False):
        triplets = len(reference[0]) if isinstance(reference, list | tuple) else len(reference)
        if isinstance(reference, Tensor):
            reference, a, b = self._features(reference, a, b)
        logits, maps = [], {}
        for i, scale in enumerate(self.scales):
            f_r, f_a, f_b = (image[i].flatten(0, -4) for image in (reference, a, b))  # (B * n, C, h, w)
            r_a, r_b = self.residual[i](torch.cat([f_a, f_b]), torch.cat([f_r, f_r])).chunk(2)
            logit = self.transformers[i](torch.cat([r_a, r_b], dim=1), f_r, return_maps=return_maps)
            if return_maps:
                logit, maps[f"attention_{scale}"] = logit
                maps |= {f"residual_a_{scale}": r_a, f"residual_b_{scale}": r_b, f"logit_{scale}": logit}
            logits.append(logit)
        logit = torch.stack(logits).mean(0).view(triplets, -1).mean(1)  # (B,)
        return (logit, maps) if return_maps else logit

    def _features(self, *images: Tensor) -> list[list[Tensor]]:
        """Each image's maps, from one batch of all three."""
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"crops: got unequal shapes {[tuple(x.shape) for x in images]}, expected one shape")
        crops = [image.flatten(0, 1) if image.ndim == 5 else image for image in images]
        check_images(*crops, values=not self.training)
        height, width = crops[0].shape[-2:]
        if (height, width) != (self.crop, self.crop):
            todo = "cut the images with iqa_lib.views.Crops, or pass another `crop` to the constructor"
            raise ValueError(f"crops: got {height}x{width}, expected {self.crop}x{self.crop}: {todo}")
        return list(zip(*(scale.chunk(3) for scale in self.extract(torch.cat(crops))), strict=True))

    @classmethod
    def from_author_checkpoint(cls, path: Path | str, **options) -> "IQATMFM":
        """The network with the head that the authors' code saved (`checkpoint_*.pth.tar`), or of a bare state dict.

        The file does not hold the backbone. `preset="official_code"` runs the head as the authors did. WeightsError if
        the file cannot be read, or a tensor is missing or does not fit; the message names it.
        """
        model = cls(**options)
        state = renamed(read_checkpoint(path, "state_dict"), AUTHOR_KEYS)
        conv1d = [key for key, tensor in state.items() if ".ffn." in key and tensor.ndim == 3]
        state |= {key: state[key].squeeze(-1) for key in conv1d}
        load_complete(model, state, path, absent=("backbone.",))
        return model


class MetricFusion(nn.Module):
    """The MFM: an MLP on the standardised logit and metrics, with `activation` `"relu"` or `"gelu"`.

    `fusion(inputs)` takes `(B, inputs)` and returns the fused logit `(B,)` that **B** is closer.
    """

    def __init__(self, inputs: int, *, hidden: tuple[int, ...] = (192, 64, 64, 32, 16, 8, 4), activation: str = "relu"):
        super().__init__()
        check_choice(ACTIVATIONS, activation=activation)
        between = nn.ReLU if activation == "relu" else nn.GELU
        layers = [layer for widths in pairwise((inputs, *hidden)) for layer in (nn.Linear(*widths), between())]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))

    def standardise_by(self, inputs: Tensor) -> None:
        """Standardise by the mean and deviation of the training split's inputs `(N, inputs)`."""
        self.mean.copy_(inputs.mean(0))
        std = inputs.std(0)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.mlp((inputs - self.mean) / self.std).squeeze(1)


@keeps_options
class FusedIQATMFM(nn.Module):
    """The whole IQA-TMFM: the triplet network, and the fusion of its logit with other metrics.

    `network` was trained in the first stage; `metrics` is the number of metrics. With `metric_input` `"pair"` each
    metric m enters as m(R, A) and m(R, B), with `"difference"` as m(R, B) - m(R, A). `freeze_network` trains only the
    fusion; for `activation` see `MetricFusion`.

    `model(reference, a, b, metrics)` takes images as `IQATMFM` does, and `metrics` `(B, m, 2)`, each metric's scores
    of A and B in its own unit; it returns the fused logit `(B,)` that B is closer.
    """

    def __init__(self, network: IQATMFM, metrics: int, *, metric_input="pair", activation="relu", freeze_network=False):
        super().__init__()
        check_choice(METRIC_INPUTS, metric_input=metric_input)
        self.network, self.metric_input, self.freeze_network = network, metric_input, freeze_network
        self.fusion = MetricFusion(1 + metrics * (2 if metric_input == "pair" else 1), activation=activation)
        if freeze_network:
            network.requires_grad_(False)

    def train(self, mode: bool = True) -> "FusedIQATMFM":
        super().train(mode)
        if self.freeze_network:
            self.network.eval()
        return self

    def inputs(self, logit: Tensor, metrics: Tensor) -> Tensor:
        """The fusion's input `(B, 1 + 2 m)`, or `(B, 1 + m)`: the network's logit `(B,)`, then metrics `(B, m, 2)`."""
        if self.metric_input == "difference":
            metrics = metrics[..., 1] - metrics[..., 0]
        return torch.cat([logit[:, None], metrics.flatten(1).float()], dim=1)

    def forward(self, reference, a, b, metrics: Tensor) -> Tensor:
        return self.fusion(self.inputs(self.network(reference, a, b), metrics))

    @torch.no_grad()
    def fuse(self, logit: Tensor, metrics: Tensor) -> Tensor:
        """Fused logits `(N,)`, on the CPU, from the network's logits `(N,)` and metrics `(N, m, 2)`."""
        return self.fusion(self.inputs(logit, metrics).to(self.fusion.mean.device)).cpu()


def tree_fusion(inputs: Tensor, p_b: Tensor, *, seed: int = 0) -> HistGradientBoostingClassifier:
    """The paper's other fusion, a decision tree; boosted here, since the paper does not state its kind.

    `inputs` are `FusedIQATMFM.inputs` of the training split, `(N, inputs)`, `p_b` its labels `(N,)`: shares of one half
    or more count as B. The classifier's `predict_proba(inputs)[:, 1]` is the probability that B is closer.
    """
    return HistGradientBoostingClassifier(random_state=seed).fit(inputs.numpy(), (p_b >= 0.5).numpy())


AUTHOR_KEYS = (
    (r"^res_conv([23])x\.(\w+\.)?(weight|bias)$", r"residual.\1.conv.\3"),
    (r"^discrinimator([23])x\.", r"transformers.\1."),
    (r"\.conv_enc\.", ".residual_tokens.projection."),
    (r"\.conv_dec\.", ".reference_tokens.projection."),
    (r"\.transformer\.encoder\.(cls_token|pos_embedding)", r".residual_tokens.\1"),
    (r"\.transformer\.decoder\.(cls_token|pos_embedding)", r".reference_tokens.\1"),
    (r"pos_embedding$", "positions"),
    (r"\.transformer\.(encoder|decoder)\.layers\.", r".\1."),
    (r"\.self_attn\.", ".attention."),
    (r"\.dec_enc_attn\.", ".cross."),
    *((rf"\.W_{letter}\.", f".{name}.") for letter, name in (("Q", "query"), ("K", "key"), ("V", "value"))),
    (r"\.linear\.", ".out."),
    (r"\.layer_norm", ".norm"),
    (r"\.pos_ffn\.conv1\.", ".ffn.0."),
    (r"\.pos_ffn\.conv2\.", ".ffn.2."),
    (r"\.projection\.(\d)\.weight$", r".head.\1.weight"),
    (r"^(residual|transformers)\.2\.", r"\1.0."),
    (r"^(residual|transformers)\.3\.", r"\1.1."),
)
"""From the authors' names to ours, applied in this order; their scales are called 2x and 3x."""
