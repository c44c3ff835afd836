"""Figures, each a function that returns it: titles, units, colour bars and directions are in the image."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from iqa_lib.data.base import IQADataset, Pair, Triplet
from iqa_lib.data.distortions import DISTORTIONS, distort
from iqa_lib.metrics import Calibration, Estimate, logistic_fit
from iqa_lib.training import Fit

sns.set_theme(context="paper", style="ticks", palette="deep", rc={"figure.dpi": 80})


def triplets(dataset: IQADataset, indices: Sequence[int], predictions: pd.DataFrame | None = None) -> Figure:
    """Triplets, one a row: reference, A, B, with people's answer and, if given, the model's."""
    figure, axes = _grid(len(indices), 3, 2.0, 1.6)
    for row, index in zip(axes, indices, strict=True):
        record: Triplet = dataset.records[index]
        *images, _ = dataset.read(index)
        titles = [f"reference {record.reference_id}", f"A  {record.kind_a}", f"B  {record.kind_b}"]
        for axis, image, title in zip(row, images, titles, strict=True):
            _show(axis, image)
            axis.set_title(title, fontsize=8)
        answer = f"people: P(B closer) = {record.p_b:.2f}"
        if predictions is not None:
            answer += f",  model: {predictions.prediction[index]:.2f}"
        row[0].set_xlabel(answer, fontsize=8)
    return _done(figure)


def distortions(
    image: np.ndarray, centre: tuple[float, float] = (0.5, 0.5), size: tuple[int, int] = (80, 60)
) -> Figure:
    """A detail of an image, pixel by pixel, under KADID-10k's 25 types of distortion at levels 1 to 5.

    Args:
        image: uint8 RGB, `(H, W, 3)`, about 512x384; distorted as a whole.
        centre: Of the detail, as shares of the image's width and height.
        size: Width and height of the detail, in pixels.
    """
    left, top = (round(c * (side - s)) for c, s, side in zip(centre, size, image.shape[1::-1], strict=True))
    part = slice(top, top + size[1]), slice(left, left + size[0])
    strips = {
        kind.name: [distort(image, kind.number, k, np.random.default_rng((kind.number, k))) for k in range(1, 6)]
        for kind in DISTORTIONS
    }
    figure, axes = plt.subplots(13, 2, figsize=(5.6, 8.0), layout="constrained")
    for axis, (name, strip) in zip(axes.T.flat, (strips | {"reference": [image]}).items(), strict=True):
        shown = np.hstack([image[part] for image in strip])
        axis.imshow(np.pad(shown, ((0, 0), (0, 5 * size[0] - shown.shape[1]), (0, 0)), constant_values=255))
        axis.set_title(name, fontsize=8, loc="left", pad=2)
        axis.set(xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
    figure.suptitle("KADID-10k's 25 types of distortion, level 1 to 5 from left to right (a detail)", fontsize=9)
    return _done(figure)


def gates(images: Sequence[Tensor], maps: Mapping[str, Tensor], name: str = "gate_w") -> Figure:
    """PRFNet's one-channel gates over A and B: where deep differences let shallow ones through (bright) or not (dark).

    Args:
        images: Reference, A and B, `(3, H, W)` in [0, 1].
        maps: Of the one triplet, from `model(..., return_maps=True)`.
        name: What the maps' names begin with.
    """
    shown = [key for key in sorted(maps, reverse=True) if key.startswith(name)]
    figure, axes = _grid(2, len(shown) + 1, 2.2, 1.75)
    for row, label, image in zip(axes, "AB", images[1:], strict=True):
        _show(row[0], image)
        row[0].set_title(f"image {label}", fontsize=8)
        for axis, key in zip(row[1:], shown, strict=True):
            gate = maps[key][0, 0].float().cpu()
            _show(axis, image.mean(0, keepdim=True).expand(3, -1, -1))
            axis.imshow(gate, alpha=0.65, cmap="magma", extent=(-0.5, image.shape[2] - 0.5, image.shape[1] - 0.5, -0.5))
            scale = int(key[-1])
            axis.set_title(f"$w_{scale}$: scale {scale} gates scale {scale - 1}", fontsize=8)
    for column in range(1, len(shown) + 1):
        bar = figure.colorbar(axes[0, column].images[-1], ax=axes[:, column], shrink=0.8)
        bar.set_label("gate (0 closed, 1 open)", fontsize=7)
        bar.ax.tick_params(labelsize=6)
    return _done(figure)


def differences(
    images: Sequence[Tensor], maps: Mapping[str, Tensor], name: str = "difference", symbol: str = "d"
) -> Figure:
    """Mean over channels of the size of learnt differences to the reference; A and B share a scale's colours.

    Args:
        images: Reference, A and B, `(3, H, W)` in [0, 1].
        maps: Of the one triplet, from `model(..., return_maps=True)`: `<name>_a_<scale>` and `<name>_b_<scale>`.
        name: What the maps' names begin with.
        symbol: What the figure calls them.
    """
    scales = [key.removeprefix(f"{name}_a_") for key in maps if key.startswith(f"{name}_a_")]
    figure, axes = _grid(2, len(scales) + 1, 2.1, 1.75)
    for row, label, image in zip(axes, "ab", images[1:], strict=True):
        _show(row[0], image)
        row[0].set_title(f"image {label.upper()}", fontsize=8)
        for axis, scale in zip(row[1:], scales, strict=True):
            both = torch.stack([maps[f"{name}_{x}_{scale}"][0].float().abs().mean(0).cpu() for x in "ab"])
            axis.imshow(both["ab".index(label)], cmap="viridis", vmin=0.0, vmax=float(both.max()))
            axis.set_title(f"$|{symbol}_{label.upper()}|$ scale {scale}", fontsize=8)
    for column in axes.T[1:]:
        bar = figure.colorbar(column[0].images[-1], ax=column, shrink=0.8)
        bar.ax.tick_params(labelsize=6)
    bar.set_label("mean over channels", fontsize=7)
    return _done(figure)


def attention(images: Sequence[Tensor], maps: Mapping[str, Tensor], name: str = "attention_") -> Figure:
    """Where each head of each scale looks, over the image: one row a scale.

    Args:
        images: `(3, H, W)` in [0, 1]; one a scale is shown beside, in order: reference, A, B.
        maps: Of one record, from `model(..., return_maps=True)`: `<name><scale>` `(1, heads, h, w)`.
        name: What the maps' names begin with.
    """
    scales = [key for key in maps if key.startswith(name)]
    heads = maps[scales[0]].shape[1]
    figure, axes = _grid(len(scales), heads + 1, 1.75, 1.7)
    for row, key, label, image in zip(axes, scales, ("A", "B"), images[1:], strict=False):
        _show(row[0], image)
        row[0].set_title(f"image {label}", fontsize=8)
        weights = maps[key][0].float().cpu()
        for head, axis in enumerate(row[1:]):
            relative = weights[head] * weights[head].numel()
            _show(axis, image.mean(0, keepdim=True).expand(3, -1, -1))
            extent = (-0.5, image.shape[2] - 0.5, image.shape[1] - 0.5, -0.5)
            axis.imshow(relative, alpha=0.65, cmap="magma", vmin=0, extent=extent)
            axis.set_title(f"scale {key.removeprefix(name)}, head {head + 1}", fontsize=8)
            bar = figure.colorbar(axis.images[-1], ax=axis, shrink=0.75)
            bar.ax.tick_params(labelsize=6)
    figure.suptitle("attention to each position (1: as if all were looked at alike)", fontsize=9)
    return _done(figure)


def training(steps: Mapping[str, Fit], crop: int = 15) -> Figure:
    """The loss of each training step with its running mean; the learning rate's drops as dotted lines."""
    figure, axes = plt.subplots(1, len(steps), figsize=(3.8 * len(steps), 2.5), squeeze=False, layout="constrained")
    for axis, (name, step) in zip(axes[0], steps.items(), strict=True):
        history = step.history
        axis.plot(history.step, history.loss, color="0.75", linewidth=0.8, label="each step")
        axis.plot(history.step, history.loss.rolling(crop, min_periods=1).mean(), label=f"mean of {crop}")
        if "selection" in history:
            chosen = history.dropna(subset="selection")
            axis.plot(chosen.step, chosen.selection, "o-", color="C1", markersize=3, label="held out")
        for drop in history.step[history.lr < history.lr.shift() * 0.2]:
            axis.axvline(drop, color="0.5", linestyle=":", linewidth=0.8)
        axis.set(title=name, xlabel="step", ylabel="loss (lower is better)")
        axis.legend(frameon=False, fontsize=7)
        sns.despine(ax=axis)
    return _done(figure)


def metrics(estimates: Mapping[str, Estimate], title: str, xlabel: str, chance: float | None = None) -> Figure:
    """Values with their 95 % intervals, one below the other."""
    figure, axis = plt.subplots(figsize=(6.4, 0.8 + 0.36 * len(estimates)), layout="constrained")
    for y, estimate in enumerate(estimates.values()):
        axis.plot([estimate.low, estimate.high], [y, y], color="C0", linewidth=2, solid_capstyle="butt")
        axis.plot(estimate.value, y, "o", color="C0")
        axis.annotate(
            f"{estimate.value:.3f}", (estimate.value, y), (0, 6), textcoords="offset points", ha="center", fontsize=7
        )
    if chance is not None:
        axis.axvline(chance, color="0.6", linestyle="--", linewidth=0.8)
        axis.annotate("chance", (chance, -0.6), (3, 0), textcoords="offset points", fontsize=7, color="0.4")
    axis.set(title=title, xlabel=xlabel, ylim=(len(estimates) - 0.4, -0.9))
    axis.set_yticks(range(len(estimates)), list(estimates))
    sns.despine(ax=axis)
    return _done(figure)


def forest(lines: pd.DataFrame, title: str) -> Figure:
    """Rows of a table, our numbers with their 95 % intervals; one panel a column that has any of ours.

    Where a column is the paper's own data set its value stands beside ours.

    Args:
        lines: From `iqa_lib.lab.tables.comparison`.
        title: Of the figure.
    """
    drawn = {name: part for name, part in lines.groupby("column", sort=False) if part.ours.notna().any()}
    rows = list(lines[lines.ours.notna()].row.unique())
    size = max(6.6, 2.2 + 2.2 * len(drawn)), 1.8 + 0.26 * len(rows)
    figure, axes = plt.subplots(1, len(drawn), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (column, part) in zip(axes[0], drawn.items(), strict=True):
        part = part.set_index("row").reindex(rows)
        places = np.arange(len(rows))
        axis.hlines(places, part.low, part.high, color="C0", linewidth=2)
        axis.plot(part.ours, places, "o", color="C0", label="ours, 95 % interval")
        if part.paper.notna().any():
            axis.plot(part.paper.astype(float), places, "D", color="C1", fillstyle="none", label="paper")
        lower = "lower" if column.startswith(("RMSE", "distance")) else "higher"
        axis.set_title(fill(column, 18), fontsize=9)
        axis.set(xlabel=f"{lower} is better", ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="y", color="0.9")
        sns.despine(ax=axis)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    handles = {
        label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, fontsize=7, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return _done(figure)


def paper_differences(lines: pd.DataFrame, title: str) -> Figure:
    """The papers' differences between an ablation and the full model, in units of the sampling noise at their n.

    Args:
        lines: From `iqa_lib.lab.tables.differences`, with a column `table`; those with `paper_noise` are drawn.
        title: Of the figure.
    """
    told = lines[lines.paper_noise.notna()]
    labels = [f"{line.table}: {line.row}, {line.column}" for line in told.itertuples()]
    ratio, places = told.paper / told.paper_noise, np.arange(len(told))
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.22 * len(told)), layout="constrained")
    axis.axvspan(-1, 1, color="0.9", label="within the 95 % interval of no difference")
    axis.plot(ratio, places, "o", color="C0")
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.set_yticks(places, labels, fontsize=7)
    axis.set_xscale("symlog", linthresh=2)
    axis.set(title=title, xlabel="ablation less full model, in half-widths of the 95 % interval", ylim=(len(told), -1))
    figure.legend(fontsize=7, loc="outside lower center")
    sns.despine(ax=axis)
    return _done(figure)


def weighted_scores(images: Sequence[Tensor], maps: Mapping[str, Tensor]) -> Figure:
    """AHIQ's score map f, its weight map w, and what each position adds to the score, `f w / sum(w)`, over a pair.

    Args:
        images: Reference and distorted image, `(3, H, W)` in [0, 1].
        maps: Of the one pair, from `model(..., return_maps=True)`: `score` and `weight`, `(1, 1, h, w)`.
    """
    score, weight = (maps[name][0, 0].float().cpu() for name in ("score", "weight"))
    share = score * weight / weight.sum()
    figure, axes = _grid(1, 5, 2.0, 1.9)
    for axis, name, image in zip(axes[0], ("reference", "distorted"), images, strict=False):
        _show(axis, image)
        axis.set_title(name, fontsize=8)
    titles = "score map f (higher is better)", "weight map w (0 to 1)", f"f w / sum w, sum {share.sum():.3f}"
    for axis, title, values, cmap in zip(
        axes[0, 2:], titles, (score, weight, share), ("viridis", "magma", "viridis"), strict=True
    ):
        shown = axis.imshow(values, cmap=cmap, interpolation="nearest")
        axis.set_title(title, fontsize=8)
        figure.colorbar(shown, ax=axis, shrink=0.7).ax.tick_params(labelsize=6)
    return _done(figure)


def sampling(image: Tensor, offsets: Tensor, places: Sequence[tuple[float, float]]) -> Figure:
    """Where a deformable 3x3 convolution looks: for chosen places, arrows from its nine taps to where they are moved.

    A panel shows the map and half as much around it; what is sampled outside the map is zero, and counted in the title.

    Args:
        image: `(3, H, W)` in [0, 1].
        offsets: `(18, h, w)`: (down, right) of each tap in turn, in positions of the `h x w` grid.
        places: Shares of height and width, one panel each.
    """
    height, width = offsets.shape[1:]
    step = image.shape[1] / height
    figure, axes = _grid(1, len(places), 2.3, 2.3)
    for axis, (down, right) in zip(axes[0], places, strict=True):
        row, column = round(down * (height - 1)), round(right * (width - 1))
        taps = torch.tensor([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)], dtype=torch.float32)
        start = (taps + torch.tensor([row, column]) + 0.5) * step
        moved = offsets[:, row, column].float().cpu().view(9, 2) * step
        _show(axis, image)
        axis.quiver(
            start[:, 1],
            start[:, 0],
            moved[:, 1],
            moved[:, 0],
            angles="xy",
            scale_units="xy",
            scale=1,
            color="C1",
            width=0.008,
        )
        axis.scatter(start[:, 1], start[:, 0], s=9, color="C0", zorder=3)
        extent = torch.tensor(image.shape[1:])
        outside = ((start + moved < 0) | (start + moved > extent)).any(dim=1).sum()
        axis.set_xlim(-0.5 * extent[1], 1.5 * extent[1])
        axis.set_ylim(1.5 * extent[0], -0.5 * extent[0])
        axis.set_title(f"row {row}, column {column} of {height}x{width}\n{outside} of 9 look outside", fontsize=8)
    figure.suptitle("taps of the 3x3 convolution (points) and where they look (arrow heads)", fontsize=9)
    return _done(figure)


def block_attention(images: Sequence[Tensor], attention: Sequence[Tensor], names: Sequence[str]) -> Figure:
    """Where a ViT's class token looks in each block, mean over heads: one row an image.

    Args:
        images: `(3, H, W)` in [0, 1].
        attention: Of each image, `(blocks, heads, h, w)`: shares of the class token's attention.
        names: Of the images.
    """
    blocks = len(attention[0])
    figure, axes = _grid(len(images), blocks + 1, 1.7, 1.6)
    for row, image, looks, name in zip(axes, images, attention, names, strict=True):
        _show(row[0], image)
        row[0].set_title(name, fontsize=8)
        for block, axis in enumerate(row[1:]):
            mean = looks[block].float().mean(0).cpu()
            shares = mean / mean.mean()
            shown = axis.imshow(shares, cmap="magma", vmin=0, vmax=max(2.0, float(shares.max())))
            axis.set_title(f"block {block}", fontsize=8)
            figure.colorbar(shown, ax=axis, shrink=0.7).ax.tick_params(labelsize=6)
    figure.suptitle(
        "attention of the class token, mean over heads (1: as if all patches were looked at alike)", fontsize=9
    )
    return _done(figure)


def ranks(
    dataset: IQADataset, indices: Sequence[int], tables: Mapping[str, pd.DataFrame], signs: Mapping[str, int] = {}
) -> Figure:
    """Distorted images of one reference, best by people on the left; below each, its score and rank by each method.

    Args:
        dataset: Of pairs.
        indices: Of the images.
        tables: Predictions of all pairs by method.
        signs: -1 for methods whose lower score is better.
    """
    order = sorted(indices, key=lambda index: -dataset.records[index].score)
    sizes = {"figsize": (1.75 * len(order), 1.8 + 0.2 * len(tables)), "height_ratios": [1.4, 0.3 + 0.2 * len(tables)]}
    figure, axes = plt.subplots(2, len(order), squeeze=False, layout="constrained", **sizes)
    for axis in axes[1]:
        axis.set_axis_off()
    columns = {"people": pd.Series({index: dataset.records[index].score for index in order})}
    columns |= {name: signs.get(name, 1) * table.prediction[order] for name, table in tables.items()}
    lines = {name: (values, values.rank(ascending=False)) for name, values in columns.items()}
    for column, (above, below), index in zip(range(len(order)), axes.T, order, strict=True):
        _show(above, dataset.read(index)[1])
        above.set(xticks=[], yticks=[])
        above.set_title(dataset.records[index].kind, fontsize=7)
        for line, (name, (values, places)) in enumerate(lines.items()):
            shown = f"{abs(values[index]) if signs.get(name) == -1 else values[index]:.3g} ({places[index]:.0f})"
            colour = "C2" if places[index] == lines["people"][1][index] else "C3"
            height = 1 - (line + 0.5) / len(lines)
            below.text(0.5, height, shown, ha="center", fontsize=8, color=colour if line else "0.2")
            if not column:
                below.text(-0.05, height, name, ha="right", fontsize=8)
    figure.suptitle(
        f"reference {dataset.records[order[0]].reference_id}: score (rank); green where the rank is people's",
        fontsize=9,
    )
    return _done(figure)


def contributions(values: Tensor, branches: Sequence[str]) -> Figure:
    """What each branch on each scale adds to the scores: mean over pairs, and how it varies among them.

    Args:
        values: `(pairs, branches, scales)`, in the unit of the score.
        branches: Their names.
    """
    scales = [f"scale {i}" for i in range(1, values.shape[2] + 1)]
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.9 + 0.45 * len(branches)), layout="constrained")
    for axis, table, title, cmap in zip(
        axes,
        (values.mean(0), values.std(0)),
        ("mean over pairs", "standard deviation over pairs"),
        ("vlag", "viridis"),
        strict=True,
    ):
        limits = {"center": 0} if cmap == "vlag" else {"vmin": 0}
        sns.heatmap(
            table.numpy(),
            annot=True,
            fmt=".2f",
            cmap=cmap,
            xticklabels=scales,
            yticklabels=branches,
            ax=axis,
            annot_kws={"fontsize": 7},
            **limits,
        )
        axis.set_title(f"added to the score, {title}", fontsize=8)
    return _done(figure)


def branch_maps(images: Sequence[Tensor], maps: Mapping[str, Tensor], branches: Sequence[str]) -> Figure:
    """FR+NR's pooled maps: one row a branch, one column a scale, fine to coarse.

    Args:
        images: Reference and distorted image, `(3, H, W)` in [0, 1].
        maps: Of the one pair, from `model(..., return_maps=True)`: `<branch>_1..4`, `(1, 1, h, w)`.
        branches: Their names.
    """
    figure, axes = _grid(len(branches) + 1, 4, 1.9, 1.6)
    for axis in axes[0, 2:]:
        axis.set_axis_off()
    for axis, name, image in zip(axes[0], ("reference", "distorted"), images, strict=False):
        _show(axis, image)
        axis.set_title(name, fontsize=8)
    for row, branch in zip(axes[1:], branches, strict=True):
        for i, axis in enumerate(row, start=1):
            shown = axis.imshow(maps[f"{branch}_{i}"][0, 0].float().cpu(), cmap="viridis")
            what = "activation" if branch == "nr" else "difference"
            axis.set_title(f"{branch.upper()} {what}, scale {i}", fontsize=7)
            figure.colorbar(shown, ax=axis, shrink=0.7).ax.tick_params(labelsize=5)
    return _done(figure)


def srocc_by_kind(tables: Mapping[str, pd.DataFrame], signs: Mapping[str, int] = {}) -> Figure:
    """SROCC within each type of distortion, one point a method; none where scores or predictions are all equal.

    Args:
        tables: Predictions of the same pairs by method, with `kind`, `target`, `prediction`.
        signs: -1 for methods whose lower score is better.
    """
    rows = [
        (kind, method, signs.get(method, 1) * part.prediction.corr(part.target, method="spearman"))
        for method, table in tables.items()
        for kind, part in table.groupby("kind")
        if part[["prediction", "target"]].nunique().min() > 1
    ]
    table = pd.DataFrame(rows, columns=["kind", "method", "srocc"])
    order = table.groupby("kind").srocc.mean().sort_values(ascending=False).index
    counts = next(iter(tables.values())).kind.value_counts()
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.19 * len(order)), layout="constrained")
    sns.stripplot(table, y="kind", x="srocc", hue="method", order=order, jitter=False, ax=axis)
    axis.axvline(0, color="0.7", linewidth=0.8)
    axis.set(title="SROCC within each type of distortion (images)", xlabel="SROCC (higher is better)", ylabel="")
    axis.set_yticks(range(len(order)), [f"{kind} ({counts[kind]})" for kind in order], fontsize=6.5)
    axis.legend(frameon=False, fontsize=7)
    sns.despine(ax=axis)
    return _done(figure)


def accuracy_by_crops(estimates: Mapping[int, Estimate]) -> Figure:
    """2AFC accuracy against the number of crops that a triplet is judged by, with 95 % intervals."""
    counts = list(estimates)
    figure, axis = plt.subplots(figsize=(4.2, 2.6), layout="constrained")
    axis.fill_between(counts, *zip(*((e.low, e.high) for e in estimates.values()), strict=True), alpha=0.2)
    axis.plot(counts, [estimate.value for estimate in estimates.values()], "o-", markersize=4)
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.set(title="accuracy by crops a triplet (band: 95 %)", xlabel="crops", ylabel="accuracy (higher is better)")
    sns.despine(ax=axis)
    return _done(figure)


def outputs_by_label(outputs: np.ndarray, targets: np.ndarray, decisions: Mapping[str, float]) -> Figure:
    """How a network's raw outputs are spread for either answer of people, with the thresholds of decision rules."""
    figure, axis = plt.subplots(figsize=(4.6, 2.6), layout="constrained")
    answer = np.where(np.asarray(targets) > 0.5, "B closer", "A closer")
    sns.histplot(x=outputs, hue=answer, hue_order=["A closer", "B closer"], bins=30, element="step", ax=axis)
    for (name, threshold), style in zip(decisions.items(), ("--", ":"), strict=False):
        axis.axvline(threshold, color="0.2", linestyle=style, linewidth=1)
        axis.annotate(
            name,
            (threshold, 0.97),
            (3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=7,
            va="top",
        )
    axis.set(title="raw outputs by people's answer", xlabel="output (B closer: higher)", ylabel="triplets")
    sns.despine(ax=axis)
    return _done(figure)


def fusion(before: pd.DataFrame, after: pd.DataFrame) -> Figure:
    """What a fusion changes: each triplet's probability before and after it, coloured by people's answer."""
    answer = np.where(before.target > 0.5, "B closer", "A closer")
    figure, axis = plt.subplots(figsize=(3.9, 3.6), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8)
    axis.axvline(0.5, color="0.8", linewidth=0.8)
    axis.axhline(0.5, color="0.8", linewidth=0.8)
    sns.scatterplot(
        x=before.prediction,
        y=after.prediction,
        hue=answer,
        hue_order=["A closer", "B closer"],
        s=12,
        alpha=0.7,
        linewidth=0,
        ax=axis,
    )
    right = [(table.prediction > 0.5) == (table.target > 0.5) for table in (before, after)]
    gained, lost = (right[1] & ~right[0]).sum(), (right[0] & ~right[1]).sum()
    axis.set(title=f"fusion mends {gained} answers and spoils {lost} of {len(before)}", xlim=(0, 1), ylim=(0, 1))
    axis.set(xlabel="P(B closer), network alone", ylabel="P(B closer), fused")
    axis.legend(title="people", frameon=False, fontsize=7, title_fontsize=7)
    sns.despine(ax=axis)
    return _done(figure)


def accuracy_by_kind(predictions: pd.DataFrame) -> Figure:
    """Share of answers like people's for each type of distortion, over the triplets that show it as A or as B."""
    right = (predictions.prediction > 0.5) == (predictions.target > 0.5)
    both = pd.concat([pd.DataFrame({"kind": predictions[kind], "right": right}) for kind in ("kind_a", "kind_b")])
    order = both.groupby("kind").right.mean().sort_values(ascending=False).index
    counts = both.kind.value_counts()
    figure, axis = plt.subplots(figsize=(6.4, 0.8 + 0.19 * len(order)), layout="constrained")
    sns.barplot(both, y="kind", x="right", order=order, color="C0", errorbar=None, ax=axis)
    axis.axvline(right.mean(), color="0.3", linestyle="--", linewidth=0.8)
    axis.set(title="2AFC accuracy by type of distortion (dashed: all)", xlabel="accuracy (higher is better)", ylabel="")
    axis.set(xlim=(0, 1))
    axis.set_yticks(range(len(order)), [f"{kind} ({counts[kind]})" for kind in order], fontsize=6.5)
    sns.despine(ax=axis)
    return _done(figure)


def reliability(curve: Calibration, title: str) -> Figure:
    """Predicted probability that B is the closer one against how often it was; points grow with their count."""
    figure, axis = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8, label="perfect")
    axis.plot(curve.predicted, curve.observed, color="C0", linewidth=1)
    axis.scatter(curve.predicted, curve.observed, s=8 + 250 * curve.count / curve.count.sum(), color="C0")
    for x, y, count in zip(curve.predicted, curve.observed, curve.count, strict=True):
        axis.annotate(f"{count}", (x, y), (5, -8), textcoords="offset points", fontsize=6, color="0.35")
    axis.set(title=title, xlabel="predicted P(B closer)", ylabel="observed share of B", xlim=(0, 1), ylim=(0, 1))
    axis.legend(frameon=False, fontsize=7)
    sns.despine(ax=axis)
    return _done(figure)


def pairs(dataset: IQADataset, indices: Sequence[int], predictions: pd.DataFrame | None = None) -> Figure:
    """Pairs, one a column: reference above, distorted image below, with type, people's score and, if given, ours."""
    figure, axes = _grid(2, len(indices), 2.3, 1.9)
    for (above, below), index in zip(axes.T, indices, strict=True):
        record: Pair = dataset.records[index]
        reference, distorted, _ = dataset.read(index)
        _show(above, reference)
        _show(below, distorted)
        above.set_title(f"reference {record.reference_id}", fontsize=8)
        below.set_title(record.kind or record.distorted.stem, fontsize=8)
        score = f"people: {record.score:.2f}"
        if predictions is not None:
            score += f",  model: {predictions.prediction[index]:.3g}"
        below.set_xlabel(score, fontsize=8)
    figure.suptitle(f"{dataset.name} set, people: {_target(dataset)}", fontsize=9)
    return _done(figure)


def labels(dataset: IQADataset) -> Figure:
    """How the labels are spread, over all records and, where types of distortion are known, by type."""
    columns = ("kind_a", "kind_b") if isinstance(dataset.records[0], Triplet) else ("kind",)
    rows = [(getattr(record, column), record.target) for record in dataset.records for column in columns]
    table = pd.DataFrame(rows, columns=["kind", "target"])
    order = table.groupby("kind").target.median().sort_values(ascending=False).index
    typed = any(order)
    size = (7.6, max(2.8, 0.8 + 0.16 * len(order))) if typed else (3.6, 2.8)
    figure, axes = plt.subplots(1, 1 + typed, figsize=size, squeeze=False, layout="constrained")
    sns.histplot(x=dataset.targets.numpy(), bins=20, ax=axes[0, 0])
    axes[0, 0].set(title=f"{dataset.name}: {len(dataset)} records", xlabel=_target(dataset), ylabel="records")
    if typed and len(columns) == 1:
        sns.boxplot(table, y="kind", x="target", order=order, fliersize=2, linewidth=0.7, color="C0", ax=axes[0, 1])
        axes[0, 1].set(title="by type of distortion", xlabel=_target(dataset), ylabel="")
    elif typed:
        sns.countplot(table, y="kind", order=table.kind.value_counts().index, color="C0", ax=axes[0, 1])
        axes[0, 1].set(title="by type of distortion", xlabel="times shown, as A or as B", ylabel="")
    for axis in axes[0]:
        axis.tick_params(labelsize=6.5)
        sns.despine(ax=axis)
    return _done(figure)


def scatter(
    dataset: IQADataset, predictions: Mapping[str, pd.DataFrame], xlabels: Sequence[str], columns: int = 3
) -> Figure:
    """People's scores against those of each metric, one panel a metric, with the fitted logistic of 4 parameters.

    Args:
        dataset: Of pairs.
        predictions: Columns `prediction`, as the metric gives it, and `target`, by the panel's title.
        xlabels: One a panel: the metric's unit and direction.
        columns: Panels a row.
    """
    columns = min(columns, len(predictions))
    rows = -(-len(predictions) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.5 * columns, 2.2 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, table), xlabel in zip(axes.flat, predictions.items(), xlabels, strict=False):
        table = table.sort_values("prediction")
        axis.scatter(table.prediction, table.target, s=9, alpha=0.5, linewidth=0)
        try:
            axis.plot(table.prediction, logistic_fit(table.prediction, table.target), color="C1", linewidth=1.5)
        except (ValueError, RuntimeError):  # too few points, or none to which the logistic converges
            title = f"{title} (no fit)"
        axis.set_title(title, fontsize=8)
        axis.set_xlabel(xlabel, fontsize=7)
        axis.tick_params(labelsize=6.5)
        sns.despine(ax=axis)
    for axis in axes.flat[len(predictions) :]:
        axis.set_axis_off()
    figure.supylabel(_target(dataset), fontsize=8)
    return _done(figure)


def quality_maps(images: Sequence[Tensor], maps: Mapping[str, Tensor], title: str) -> Figure:
    """Reference, distorted image, and where a metric sees a loss, scale by scale, all in the same colours.

    Args:
        images: Reference and distorted image, `(3, H, W)` in [0, 1].
        maps: `(1, 1, h, w)` by name, 1 where the images are alike.
        title: Of the figure.
    """
    figure, axes = _grid(2, -(-(len(maps) + 2) // 2), 2.1, 1.8)
    for axis, name, image in zip(axes.flat, ("reference", "distorted"), images, strict=False):
        _show(axis, image)
        axis.set_title(name, fontsize=8)
    lowest = max(0.0, min(values.quantile(0.01).item() for values in maps.values()))
    for axis, (name, values) in zip(axes.flat[2:], maps.items(), strict=False):
        axis.imshow(values[0, 0].float().cpu(), cmap="viridis", vmin=lowest, vmax=1)
        axis.set_title(f"{name}, mean {values.mean():.3f}", fontsize=8)
    bar = figure.colorbar(axes.flat[2].images[-1], ax=axes, shrink=0.7, extend="min")
    bar.set_label("likeness (1: as the reference)", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    figure.suptitle(title, fontsize=9)
    return _done(figure)


def quality_maps_of_two(
    reference: Tensor, images: Mapping[str, Tensor], maps: Mapping[str, Mapping[str, Sequence[Tensor]]], title: str
) -> Figure:
    """Two distorted images of one reference, and where metrics see their losses: one row a metric and image.

    Args:
        reference: `(3, H, W)` in [0, 1].
        images: The distorted images by name, likewise.
        maps: By metric, then by image: `(1, 1, h, w)` of each scale or layer, 1 where the images are alike. The
            colours of a scale are the same for all images.
        title: Of the figure.
    """
    columns = max(len(scales) for of_metric in maps.values() for scales in of_metric.values())
    figure, axes = _grid(1 + len(maps) * len(images), columns, 1.75, 1.4)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, (name, image) in zip(axes[0], {"reference": reference, **images}.items(), strict=False):
        axis.set_visible(True)
        _show(axis, image)
        axis.set_title(name, fontsize=8)
    rows = iter(axes[1:])
    for metric, of_metric in maps.items():
        scales_of_all = zip(*of_metric.values(), strict=True)
        lowest = [min(values.quantile(0.01).item() for values in of_scale) for of_scale in scales_of_all]
        for (name, scales), row in zip(of_metric.items(), rows, strict=False):
            row[0].set_ylabel(f"{metric}\n{name}", fontsize=7)
            for i, (axis, values) in enumerate(zip(row, scales, strict=False)):
                axis.set_visible(True)
                shown = axis.imshow(values[0, 0].float().cpu(), cmap="viridis", vmin=lowest[i], vmax=1)
                axis.set_title(f"{i + 1}: mean {values.mean():.4f}", fontsize=7)
                figure.colorbar(shown, ax=axis, shrink=0.7, extend="min").ax.tick_params(labelsize=5)
    figure.suptitle(title, fontsize=9)
    return _done(figure)


def maps_beside(
    images: Mapping[str, Tensor], maps: Mapping[str, Tensor], title: str, *, limits: tuple = (None, None)
) -> Figure:
    """Images, and maps of the same scene with a colour bar each.

    Args:
        images: By name, `(3, H, W)` in [0, 1].
        maps: By name, `(1, 1, h, w)`.
        title: Of the figure: what the maps show, in which unit.
        limits: Lowest and highest value of the colours; None: each map's own.
    """
    figure, axes = _grid(1, len(images) + len(maps), 1.8, 1.7)
    for axis, (name, image) in zip(axes[0], images.items(), strict=False):
        _show(axis, image)
        axis.set_title(name, fontsize=8)
    for axis, (name, values) in zip(axes[0, len(images) :], maps.items(), strict=True):
        shown = axis.imshow(values[0, 0].float().cpu(), cmap="viridis", vmin=limits[0], vmax=limits[1])
        axis.set_title(f"{name}\n{values.shape[2]} x {values.shape[3]}", fontsize=7)
        figure.colorbar(shown, ax=axis, shrink=0.6).ax.tick_params(labelsize=5)
    figure.suptitle(title, fontsize=9)
    return _done(figure)


def semantic_layers(estimates: Mapping[str, Estimate], plain: Estimate, title: str) -> Figure:
    """SROCC of LPIPS+ by semantic layer as bars with their 95 % intervals; plain LPIPS as a dashed line."""
    figure, axis = plt.subplots(figsize=(0.9 * len(estimates) + 1.6, 2.6), layout="constrained")
    values = np.array([estimate.value for estimate in estimates.values()])
    reach = np.array([(e.value - e.low, e.high - e.value) for e in estimates.values()]).T.clip(0)
    bars = axis.bar(list(estimates), values, yerr=reach, color="C0", ecolor="0.4", capsize=3, width=0.6)
    axis.bar_label(bars, [f"{value:.3f}" for value in values], label_type="center", color="white", fontsize=7)
    axis.axhline(plain.value, color="C3", linestyle="--", linewidth=1, label=f"plain LPIPS: {plain.value:.3f}")
    axis.set(title=title, xlabel="semantic layer", ylabel="SROCC (higher is better)")
    axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    sns.despine(ax=axis)
    return _done(figure)


def query_attention(
    image: Tensor, maps: Mapping[str, Tensor], places: Sequence[tuple[float, float]], name: str, title: str
) -> Figure:
    """Where chosen places (row, column) look on each scale, mean over heads, over the reference: one row a place.

    Args:
        image: The reference, `(3, H, W)` in [0, 1].
        maps: Of the one pair: `<name><scale>` `(1, heads, h, w, h, w)`, the queries' place first.
        places: Shares of height and width.
        name: What the maps' names begin with.
        title: Of the figure.
    """
    scales = [key for key in maps if key.startswith(name)]
    height, width = image.shape[1:]
    figure, axes = _grid(len(places), len(scales) + 1, 1.7, 1.45)
    for row, (down, right) in zip(axes, places, strict=True):
        rows, columns = maps[scales[0]].shape[2:4]
        y, x = int(down * rows), int(right * columns)
        star = (x + 0.5) * width / columns, (y + 0.5) * height / rows
        for axis in row:
            _show(axis, image if axis is row[0] else image.mean(0, keepdim=True).expand(3, -1, -1))
            axis.plot(*star, "*", color="#00e5ff", markeredgecolor="k", markersize=9, zorder=3)
        row[0].set_title(f"query at ({y}, {x})", fontsize=8)
        for axis, key in zip(row[1:], scales, strict=True):
            weights = maps[key][0, :, y, x].float().mean(0).cpu()  # (h, w)
            relative, extent = weights * weights.numel(), (-0.5, width - 0.5, height - 0.5, -0.5)
            top = max(2.0, float(relative.max()))
            axis.imshow(relative, alpha=0.65, cmap="magma", vmin=0, vmax=top, extent=extent)
            axis.set_title(f"looks at scale {int(key.removeprefix(name)) + 1}", fontsize=8)
            figure.colorbar(axis.images[-1], ax=axis, shrink=0.7).ax.tick_params(labelsize=5)
    figure.suptitle(f"{title} (1: as if all places were looked at alike)", fontsize=9)
    return _done(figure)


def places(
    images: Mapping[str, np.ndarray],
    maps: Mapping[str, tuple[Tensor, str, tuple[float, float]]] = {},
    columns: int = 3,
) -> Figure:
    """Images, and what was found at each place of them, every map with a colour bar of its own.

    All is placed by hand: a layout engine would take longer than the rest, and sliders wait for this figure.

    Args:
        images: uint8 RGB `(H, W, 3)` by title.
        maps: By title: values `(h, w)`, their unit and direction, and the values at the ends of its colours.
        columns: Panels a row.
    """
    rows = -(-(len(images) + len(maps)) // columns)
    beside = 0.27 if maps else 0.02  # of a panel's width, for colour bars
    room = dict(left=0.01, right=1 - beside / columns, bottom=0.03 / rows, top=1 - 0.12 / rows)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.15 * rows), squeeze=False)
    figure.subplots_adjust(**room, wspace=1.25 * beside, hspace=0.16)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, image) in zip(axes.flat, images.items(), strict=False):
        axis.imshow(image)
        axis.set_title(title, fontsize=9, y=1.0)
    for axis, (title, (values, unit, ends)) in zip(axes.flat[len(images) :], maps.items(), strict=False):
        drawn = axis.imshow(values.float().numpy(force=True), cmap="viridis", vmin=ends[0], vmax=ends[1])
        axis.set_title(title, fontsize=9, y=1.0)
        bar = figure.colorbar(
            drawn,
            cax=axis.inset_axes([1.03, 0.05, 0.035, 0.9]),
            extend="both",
            ticks=np.linspace(*ends, 3),
            format="%.3g",
        )
        bar.set_label(unit, fontsize=7)
        bar.ax.tick_params(labelsize=6)
    return _done(figure)


def _target(dataset: IQADataset) -> str:
    """What the records' targets are, with their direction."""
    if isinstance(dataset.records[0], Triplet):
        return "share preferring B (0: A closer, 1: B closer)"
    name = dataset.label.name if dataset.label.higher_is_better else f"score from {dataset.label.name}"
    return f"{name} (higher is better)"


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * width, rows * height), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
    return figure, axes


def _done(figure: Figure) -> Figure:
    """Take the figure out of pyplot's hands, so that a notebook shows it once: where it is the cell's last value."""
    plt.close(figure)
    return figure


def _show(axis: Axes, image: Tensor) -> None:
    axis.imshow(image.permute(1, 2, 0).cpu().numpy())
