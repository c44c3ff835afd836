"""Seconds and peak memory of every baseline, each measured in a process of its own, so that none inherits a peak.

    python benchmarks/baselines_memory.py                                  # at 1080x720
    python benchmarks/baselines_memory.py --size 6000x4000 ssim lpips-vgg  # 24 Mpx, some metrics only

Seconds are at 1080x720, the second of two calls. Memory is the peak resident set of a process that holds one pair and
scores it, including Python and its libraries (about 0.8 GiB). For a larger size, 0.8 and 2 Mpx are measured first;
if the line through them exceeds --budget at that size, the value is a prediction and nothing is run. "Mpx in 8 GiB"
is where the line through the smallest and the largest measurement reaches 8 GiB (999: beyond); `max_pixels` in
`iqa_lib/baselines.py` is taken from it. Networks get random weights: neither time nor memory depends on them. Reads
/proc/self/status (Linux only).
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace

import torch

from iqa_lib import baselines

_TIMED = (1080, 720)
_STEP = (1728, 1152)
_LIMIT = 8.0


def measure(name: str, width: int, height: int, calls: int) -> dict[str, float]:
    """Score one random pair `calls` times in this process: seconds of the last call, peak GiB of the process."""
    weights = "random" if baselines.BASELINES[name].needs_weights else None
    baseline = replace(baselines.load(name, weights=weights), max_pixels=width * height)
    reference = torch.rand(1, 3, height, width)
    distorted = torch.lerp(reference, torch.rand_like(reference), 0.1)
    for _ in range(calls):
        start = time.perf_counter()
        baseline.score(reference, distorted)
    return {"seconds": time.perf_counter() - start, "gib": _peak_gib()}


def _peak_gib() -> float:
    with open("/proc/self/status") as status:
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return kib / 2**20


def in_process(name: str, size: tuple[int, int], *, calls: int = 1) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--child", name, *map(str, size), str(calls)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(name: str, size: tuple[int, int], budget: float) -> str:
    """One row of the table."""
    timed = in_process(name, _TIMED, calls=2)
    peaks = {_pixels(_TIMED): timed["gib"], _pixels(_STEP): in_process(name, _STEP)["gib"]}
    pixels, how = _pixels(size), "predicted"
    if _line(peaks, pixels) <= budget:
        how = "measured"
        if pixels not in peaks:
            peaks[pixels] = in_process(name, size)["gib"]
    peak = peaks.get(pixels) or _line(peaks, pixels)
    limit = next((mpx for mpx in range(1000) if _line(peaks, (mpx + 1) * 1e6) > _LIMIT), 999)
    return f"{name:14} {timed['seconds']:10.2f} {peak:9.2f}  {how:9} {limit:12}"


def _line(peaks: dict[int, float], pixels: float) -> float:
    """GiB at `pixels` on the line through the smallest and the largest size measured."""
    (x0, y0), (x1, y1) = min(peaks.items()), max(peaks.items())
    return y0 + (y1 - y0) * (pixels - x0) / (x1 - x0)


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="baselines to measure; all if none is named")
    parser.add_argument("--size", type=_size, default=_TIMED, help="WIDTHxHEIGHT to measure memory at")
    parser.add_argument("--budget", type=float, default=10.0, help="GiB above which a size is not run but predicted")
    parser.add_argument("--child", nargs=4, metavar=("NAME", "WIDTH", "HEIGHT", "CALLS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *numbers = options.child
        print(json.dumps(measure(name, *map(int, numbers))))
        return
    width, height = options.size
    print(f"{'baseline':14} {'s 1080x720':>10} {'GiB':>9}  at {width}x{height}  Mpx in 8 GiB")
    for name in options.names or baselines.BASELINES:
        print(report(name, options.size, options.budget), flush=True)


if __name__ == "__main__":
    main()
