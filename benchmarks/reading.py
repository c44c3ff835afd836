"""Pairs read per second from the demo set: decoding both images of every item, and what this package does instead.

python benchmarks/reading.py [--pairs 250]
"""

import argparse
import time
from collections.abc import Callable

from iqa_lib import data
from iqa_lib.images import read_image
from iqa_lib.views import Crops


class Naive(Crops):
    """Decodes reference and distorted image for every item, and converts the whole to floats before cutting."""

    def __getitem__(self, key):
        record = self.dataset.records[key[1]]
        images = [read_image(path).float() / 255 for path in record.images]
        return *(self._cut(image, (0, 0)) for image in images), record.target


def pairs_a_second(items: Callable[[int], object], count: int) -> float:
    for index in range(min(count, 20)):
        items(index)
    started = time.perf_counter()
    for index in range(count):
        items(index)
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=250)
    arguments = parser.parse_args()
    options = {"split": "test", "task": "pairs", "scenes": 4}
    plain, kept = (data.load("demo", pixel_cache=cached, **options) for cached in (False, True))
    count = min(arguments.pairs, len(plain))
    for index in range(count):
        kept.read(index)
    naive = pairs_a_second(lambda i: Naive(plain, "random", 224)[0, i], count)
    rows = {"naive: both decoded, floats": naive}
    rows["reference kept, 8 bits"] = pairs_a_second(lambda i: Crops(plain, "random", 224)[0, i], count)
    rows["pixel cache"] = pairs_a_second(lambda i: Crops(kept, "random", 224)[0, i], count)
    for name, speed in rows.items():
        print(f"{name:32s} {speed:7.0f} pairs/s   {speed / naive:.1f} x")


if __name__ == "__main__":
    main()
