"""Score images of your own: `python -m iqa_lib.score REF DIST [--metric ssim]`.

REF and DIST are two images, or two folders whose images have the same names, or one reference and a folder; or REF
alone is a CSV with columns reference,distorted. With a third image B, or a CSV with columns reference,a,b, the answer
is which of DIST and B is closer to REF. Exit status: 0 all scored, 1 something could not be, 2 wrong usage.

From Python it is a function, `iqa_lib.score(reference, distorted, metric)`. This module has the same name because
`python -m iqa_lib.score` asks for one; Python puts a module that is imported in the place of the function in its
package, so the module can be called as well, and whoever imports it loses nothing.
"""

import argparse
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import yaml

from iqa_lib.lab import scoring
from iqa_lib.weights import WeightsError


class _Callable(ModuleType):
    __call__ = staticmethod(scoring.score)


sys.modules[__name__].__class__ = _Callable


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 1 if anything could not be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m iqa_lib.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", nargs="?", metavar="REF", help="an image, a folder, or a CSV of pairs")
    parser.add_argument("distorted", nargs="?", metavar="DIST", help="an image or a folder")
    parser.add_argument("b", nargs="?", metavar="B", help="another image: which of DIST and B is closer?")
    parser.add_argument(
        "--metric", default="topiq-fr", help="a name of --list, or a run's folder (default %(default)s)"
    )
    parser.add_argument("--checkpoint", help="weights: the authors' file, or a run's folder")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default %(default)s)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the network, vit=b16")
    parser.add_argument("--csv", type=Path, help="file to write a table into, one row a pair")
    parser.add_argument("--list", action="store_true", help="list the metrics and what each needs")
    given = parser.parse_args(arguments)
    if given.list:
        print(scoring.available().to_string())
        return 0
    if not given.reference:
        parser.error("wanted REF DIST, or a CSV of pairs; --list lists the metrics")
    if any("=" not in option for option in given.option):
        parser.error("--option wants NAME=VALUE, such as --option vit=b16")
    try:
        return _run(given, parser)
    except (ValueError, OSError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1


def _run(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    pairs = _pairs(given, parser)
    options = {name: yaml.safe_load(value) for name, _, value in (option.partition("=") for option in given.option)}
    metric = scoring.load(given.metric, checkpoint=given.checkpoint, device=given.device, **options)
    if given.distorted and len(pairs) == 1 and not given.csv:
        print((metric.prefer if "b" in pairs else metric.score)(*pairs.iloc[0]))
        return 0
    return _run_table(pairs, metric, given.csv)


def _pairs(given: argparse.Namespace, parser: argparse.ArgumentParser) -> pd.DataFrame:
    """What is to be scored, one row a pair or triplet."""
    if given.b:
        return pd.DataFrame([(given.reference, given.distorted, given.b)], columns=["reference", "a", "b"])
    if not given.distorted:
        if not given.reference.lower().endswith(".csv"):
            parser.error(f"{given.reference} came alone, expected REF DIST, or a CSV of pairs")
        return scoring.pairs_of_csv(given.reference)
    if not Path(given.distorted).is_dir():
        return pd.DataFrame([(given.reference, given.distorted)], columns=["reference", "distorted"])
    for folder in (given.reference, given.distorted):
        if Path(folder).is_dir() and (others := scoring.left_out(folder)):
            print(f"no images by their endings, left out: {', '.join(map(str, others))}", file=sys.stderr)
    return scoring.pairs_of_folders(given.reference, given.distorted)


def _run_table(pairs: pd.DataFrame, metric: scoring.Metric, file: Path | None) -> int:
    """Score a table into a file, or onto the screen as CSV; what is done when the user interrupts it is written too."""
    rows = []
    try:
        for row in scoring.score_table(pairs, metric):
            rows.append(row)
    finally:
        if file and rows:
            scoring.write_table(rows, file)
    if not file:
        print(pd.DataFrame(rows).to_csv(index=False), end="")
    failed = [row for row in rows if row["error"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} scored: {metric.meaning}", file=sys.stderr)
    for row in failed:
        print(f"not scored: {row['error']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
