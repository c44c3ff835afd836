"""Finished runs of a whole demo, without a network: records and predictions that a seed draws."""

import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from iqa_lib.lab import plan, records
from iqa_lib.metrics import AGREEMENT, two_afc_accuracy

WEIGHTS = {"network": "tf_efficientnet_lite0.in1k", "source": "packaged", "file": "w.pth", "sha256": "89abcdef01"}
OTHERS = {"psnr": 1.2, "ssim": 0.8, "gmsd": -0.5, "st-lpips-alex": -0.6}
"""Noise of each metric's score beside the target's; negative: lower is better."""


def predictions(noise: float, seed: int, triplets: bool = False, per_reference: int = 40) -> pd.DataFrame:
    """Predictions on 6 references, with those of `OTHERS`: the same targets for every seed."""
    fixed, own = np.random.default_rng(0), np.random.default_rng(seed)
    n = 6 * per_reference
    gap = fixed.normal(size=n)
    heard = {name: np.sign(size) * (gap + abs(size) * fixed.normal(size=n)) for name, size in OTHERS.items()}
    ours = gap + noise * own.normal(size=n)
    table = pd.DataFrame({"reference_id": np.repeat([f"r{i}" for i in range(6)], per_reference)})
    if triplets:
        answers = {name: (np.sign(OTHERS[name]) * scores > 0).astype(float) for name, scores in heard.items()}
        votes = {"target": (gap + 0.5 * fixed.normal(size=n) > 0).astype(float), "prediction": 1 / (1 + np.exp(-ours))}
        return table.assign(a="a.png", b="b.png", side="test", **votes, **answers)
    return table.assign(distorted="d.png", side="test", target=gap, prediction=ours, **heard)


def write_run(root: Path, scale: str, run: str, seed: int, noise: float, fingerprint: str = "same") -> Path:
    """A run's folder with every number that the tables ask of it."""
    wanted = [
        (row, column)
        for table in plan.specifications().values()
        for row in table.get("rows", [])
        for column in plan.columns(table, scale)
        if run in plan.runs_of(row, table, scale) or ("baseline" in row and column.get("run") == run)
    ]
    triplets = any(column["metric"] == "accuracy" for _, column in wanted)
    made = predictions(noise, seed + zlib.crc32(run.encode()) % 1000, triplets)
    measures = {"accuracy": two_afc_accuracy} if triplets else AGREEMENT
    found = {
        name: measures[name](made.prediction, made.target, made.reference_id, resamples=10).as_dict()
        for name in {column["metric"] for _, column in wanted}
    }
    metrics = {}
    for row, column in wanted:
        side = f" {column['side']}" if column.get("side", "test") != "test" else ""
        metrics[f"{column['metric']} {row.get('method', row.get('baseline'))}{side}"] = found[column["metric"]]
    metrics |= {
        "accuracy SSIM" if triplets else "srocc SSIM": {
            "value": 0.7,
            "low": 0.6,
            "high": 0.8,
            "n": 240,
            "references": 6,
        }
    }
    tested = {"name": "demo", "split": "test", "label": "MOS", "fingerprint": fingerprint}
    folder = root / records.folder(scale, run, seed)
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat([made, made.assign(side="cross")]).to_csv(folder / records.PREDICTIONS, index=False)
    record = {"notebook": run.split("/")[0], "parameters": {"seed": seed, "row": run.split("/")[1]}, "metrics": metrics}
    record |= {"data": {"test": tested, "cross": tested}, "weights": WEIGHTS, "seconds": 30, "device": "cpu"}
    record |= {"peak_memory_bytes": 10**9, "commit": "0123456789", "dirty": False}
    (folder / records.RECORD).write_text(json.dumps(record))
    return folder
