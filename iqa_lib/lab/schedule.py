"""What the rows of the tables need before days of GPU time: `python -m iqa_lib.lab.schedule paper --data DATA`.

For each row of each table: whether its data sets and weights are here, its training steps, the images that it trains on
and scores, the size of its archives, and the GPU hours that follow from the images a second of `benchmarks/gpu.json`
(`make gpu`). Nothing is started, fetched or read but names. Sizes are the published ones.
"""

import argparse
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from iqa_lib.baselines import BASELINES, available
from iqa_lib.data.base import DataError, reader
from iqa_lib.data.folder import Folder
from iqa_lib.data.protocols import PREFERENCE_TESTS
from iqa_lib.files import DamagedError, repo_root
from iqa_lib.lab import plan, records, tables
from iqa_lib.lab.networks import NETWORKS
from iqa_lib.lab.parameters import read_parameters, validate
from iqa_lib.models.ahiq import CNNS, VITS
from iqa_lib.models.iqa_tmfm import METRICS
from iqa_lib.weights import PACKAGES, URLS, cached_file, packaged_file

MEASURED = "benchmarks/gpu.json"
UNKNOWN = "not measured here"
MODELS = {network.notebook: network.model for network in NETWORKS.values()} | {"06_lpips_plus": "LPIPSPlus"}
"""A notebook's network, as `make gpu` names it."""
LINE = ["row", "run", "state", "data", "weights", "steps", "images trained on", "images scored", "archives in GB"]
LINE += ["GPU hours"]
NOTE = (
    "An image is a crop of one image: a pair has two, a triplet three. GPU hours are those of one training and its "
    f"test, from {MEASURED}, no faster than images are read, at the rate of the paper's own network whatever the row "
    "changes, and without the metrics beside it. Weights that are not here are fetched when the row is run, data sets "
    "by `make data`."
)
DEMO = "demo scale needs no data set, and its weights come with packages: `make reproduce`"
TRIPLETS = ("clic", "bapps", "pieapp")


class Work(NamedTuple):
    """What a run computes: steps, images that it trains on, images that it scores."""

    steps: int
    trained: int
    scored: int


class Side(NamedTuple):
    """A side of a data set that a run needs."""

    name: str
    split: str


def line(label: str, run: str, scale: str, data: Path, measured: dict) -> dict:
    """A row of a table as it is printed, with what it waits for."""
    notebook, given = run.split("/")[0], parameters(run, scale)
    sides, found = sides_of(notebook, given), work(notebook, given)
    lacking = sorted({missing for side in sides if (missing := _missing(side, data))})
    weights = [network for network in networks(notebook, given) if not is_here(network)]
    finished, why = records.finished(scale, run), records.failure(scale, run)
    state = "finished" if finished else f"failed: {why}" if why else "not run"
    sizes = [reader(name).ORIGIN.gigabytes for name in {side.name for side in sides}]
    archives = "not known" if None in sizes else f"{sum(sizes):.1f}"
    cells = label, run, state, f"lacks {', '.join(lacking)}" if lacking else "here"
    cells += (f"lacks {', '.join(weights)}" if weights else "here", found.steps, found.trained, found.scored, archives)
    hours = gpu_hours(notebook, given, found, measured)
    return dict(zip(LINE, cells, strict=False)) | {"GPU hours": hours, "lacks": lacking, "weights lacking": weights}


@cache
def parameters(run: str, scale: str) -> dict:
    """All parameters of a run, as it would have them."""
    return validate(run.split("/")[0], read_parameters(*plan.parameter_files(run, scale)))


def sides_of(notebook: str, given: dict) -> list[Side]:
    """The sides that a run reads, the training sides first and `given`'s test side next."""
    name, cross = given["dataset"], given.get("cross")
    if notebook == "01_baselines":
        return [Side(name, given["split"])]
    if notebook == "02_iqa_tmfm":
        return [Side(name, "train"), Side(name, "validation")]
    if notebook == "03_prfnet":
        soft = "train" if given["clean_splits"] else "all"
        return [Side(name, "train"), Side(name, "validation"), Side("bapps", soft), Side("pieapp", soft)]
    if given.get("task") == "preference":
        return [Side(name, "train"), Side(name, PREFERENCE_TESTS[name])]
    if notebook == "06_lpips_plus":
        return [Side(name, "all")]
    if given.get("train_all"):
        return [Side(name, "all"), Side(cross, "all")]
    return [Side(name, "train"), Side(name, "test"), *([Side(cross, "all")] if cross else [])]


def work(notebook: str, given: dict) -> Work:
    """What a run computes, by the published sizes of its sides."""
    sizes = [reader(side.name).ORIGIN.size(side.split) for side in sides_of(notebook, given)]
    images = 3 if given["dataset"] in TRIPLETS else 2
    crops = 1 if given.get("test_crops", "whole") == "whole" else given["test_crop_count"]
    if notebook in ("01_baselines", "06_lpips_plus"):
        return Work(0, 0, sizes[0] * images * crops)
    trained, tested, *others = sizes
    share = 0.25 if notebook == "04_ahiq" else 0.2  # of the training side; of LIVE, CSIQ and TID2013 a side of its own
    selection = round(share * trained) if given.get("hold_out") else 0
    trained -= 0 if given["dataset"] in ("live", "csiq", "tid2013") else selection
    step, limit = given["batch_size"] * images * given.get("draws", 1), given["max_steps"]
    each = trained // given["batch_size"]
    if notebook == "02_iqa_tmfm":
        second = given["epochs_2"] * each if given["fuser"] == "mlp" else 0
        stages = [(given["epochs_1"] * each, step), (second, step if given["train_network_2"] else 0)]
        fused = 0 if given["fuser"] == "none" else trained
        chosen = selection * given["epochs_1"]
        others = fused * given["crop_count"] + chosen * given["draws"]
        return _total(stages, limit, (tested * crops + others) * images)
    if notebook == "03_prfnet":
        coarse, fine = given["epochs_1"] * each, given["epochs_2"] * (sum(others) // given["batch_size"])
        stages = {"mtl": [(coarse, 2 * step)], "step1_only": [(coarse, step)], "step2_only": [(fine, step)]}
        stages["progressive"] = [(coarse, step), (fine, step)]
        return _total(stages[given["strategy"]], limit, tested * images * crops)
    chosen = selection * given["epochs"] * images
    return _total([(given["epochs"] * each, step)], limit, (tested + sum(others)) * images * crops + chosen)


def networks(notebook: str, given: dict) -> list[str]:
    """The pretrained networks that a run needs: timm tags, or names in `iqa_lib.weights`."""
    named = given.get("metrics", "") + ", " + given.get("compared", "")
    metrics = [*BASELINES] if given.get("metrics") == "all" else [name.strip() for name in named.split(",")]
    found = [name for name in metrics if name in BASELINES and BASELINES[name].needs_weights]
    if notebook == "02_iqa_tmfm" and given["metrics"] == "auto" and given["fuser"] != "none":
        found += [name for name in METRICS if BASELINES[name].needs_weights]
    if notebook == "04_ahiq":
        found += [CNNS[given["cnn"]][0]] * (given["fusion"] != "vit") + [VITS[given["vit"]][0]]
    elif notebook == "06_lpips_plus":
        found.append(f"lpips-{given['net']}")
    elif "backbone" in given:
        found.append(given["backbone"].replace("cheng2020_anchor.q", "cheng2020-anchor-"))
    return [*dict.fromkeys(found)]


def is_here(network: str) -> bool:
    """Whether a network's weights are on this machine, without going online."""
    if network in BASELINES:
        return available(network)
    if network in PACKAGES:
        return packaged_file(network) is not None
    if network in URLS:
        return cached_file(network).is_file()
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(f"timm/{network}", file), str) for file in files)


def gpu_hours(notebook: str, given: dict, found: Work, measured: dict) -> str:
    """Hours on the GPU that was measured, in words."""
    rates = measured.get("networks", {}).get(MODELS.get(notebook, ""), {})
    hours = 0.0
    trained, scored = _training_rate(rates, given), rates.get("score", {}).get("fp32")
    for images, rate in ((found.trained, trained), (found.scored, scored)):
        if images and not rate:
            return UNKNOWN
        hours += images / min(rate, rates.get("reading", rate)) / 3600 if images else 0
    return f"{hours:.1f}"


def _training_rate(rates: dict, given: dict) -> float | None:
    """Images a second in a run's precision, fp32 with TF32 products, "auto" as bf16; compiled if that was measured."""
    precision, measured = "tf32" if given.get("precision", "fp32") == "fp32" else "bf16", rates.get("train", {})
    compiled = measured.get(f"{precision} compiled") if given.get("compile") else None
    return compiled or measured.get(precision)


def page(scale: str, data: Path) -> str:
    """The whole plan as Markdown."""
    measured = _measured(repo_root() / MEASURED)
    parts, all_lines = [], {}
    for table in plan.specifications().values():
        lines = [line(*each, scale, data, measured) for each in _rows(table, scale)]
        if not lines:
            continue
        all_lines |= {each["run"]: each for each in lines}
        shown = pd.DataFrame(lines)[LINE]
        for name in ("steps", "images trained on", "images scored"):
            shown[name] = shown[name].map("{:,}".format)
        parts.append(f"## {table['title']}\n\n{tables.markdown(shown)}\n\n{_waits(lines, table)}")
    device = measured.get("device", "no GPU was measured: `make gpu`")
    head = f"# What the tables need at {scale} scale\n\nData sets: {data}. GPU: {device}. {NOTE}"
    return "\n\n".join([head, *parts, _summary([*all_lines.values()])])


def _measured(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise DamagedError(f"{file} is damaged ({error}): remove it, or run `make gpu` again") from error


def _rows(table: dict, scale: str) -> Iterator[tuple[str, str]]:
    """The runs of a table, each with the rows that stand on it."""
    shared = {}
    for row in table.get("rows", []):
        for run in plan.runs_of(row, table, scale):
            shared.setdefault(run, []).append(row["label"])
        if "baseline" in row:
            for column in plan.columns(table, scale):
                shared.setdefault(column["run"], []).append(row["label"])
    for run, labels in shared.items():
        names = [*dict.fromkeys(labels)]
        yield f"{', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}", run


def _missing(side: Side, data: Path) -> str:
    """The data set, or the part of it, that is not there; empty if it is."""
    origin = reader(side.name).ORIGIN
    needed = [side.split] if side.split in origin.parts else [*origin.parts]
    try:
        folder = Folder(data / side.name, origin)
    except DataError:
        return side.name
    lacking = [part for part in needed if not folder.has(part)]
    return f"{side.name} ({', '.join(lacking)})" if lacking and needed != ["all"] else side.name if lacking else ""


def _total(stages: list[tuple[int, int]], limit: int, scored: int) -> Work:
    """Of stages as pairs of steps and images a step."""
    stages = [(min(steps, limit or steps), images) for steps, images in stages]
    return Work(sum(steps for steps, _ in stages), sum(steps * images for steps, images in stages), scored)


def _waits(lines: list[dict], table: dict) -> str:
    """What a table waits for, in a sentence."""
    open_lines = [each for each in lines if each["state"] != "finished"]
    lacking = sorted({name for each in open_lines for name in each["lacks"]})
    weights = sorted({name for each in open_lines for name in each["weights lacking"]})
    quoted = sum("reported" in row for row in table["rows"])
    parts = [f"data {', '.join(lacking)}"] * bool(lacking) + [f"weights {', '.join(weights)}"] * bool(weights)
    parts += [f"{len(open_lines)} of {len(lines)} runs"] * bool(open_lines)
    return f"Waits for: {'; '.join(parts) or 'nothing'}." + f" Rows that are quoted only: {quoted}." * bool(quoted)


def _summary(lines: list[dict]) -> str:
    ready = [each for each in lines if not each["lacks"] and each["state"] != "finished"]
    hours = [float(each["GPU hours"]) for each in lines if each["GPU hours"] != UNKNOWN]
    told = f"{sum(hours):.0f} GPU hours for {len(hours)} of them" if hours else f"GPU hours {UNKNOWN}"
    done = sum(each["state"] == "finished" for each in lines)
    told = f"{done} finished, {len(ready)} can start with the data that is there; {told}"
    return f"{len(lines)} runs: {told}, one seed each. Runs that share a stage train it once."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.lab.schedule", description=__doc__.splitlines()[0])
    parser.add_argument("scale", nargs="?", default="paper", choices=("paper", "demo"))
    parser.add_argument("--data", help="folder of the data sets (data)")
    given = parser.parse_args()
    data = Path(given.data or repo_root() / "data").expanduser().resolve()
    if given.data is not None and not (given.data and data.is_dir()):
        parser.error(f"--data: got {given.data!r}, expected a folder that is there: check the path")
    try:
        print(DEMO if given.scale == "demo" else page(given.scale, data))
    except DamagedError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
