"""Score images of your own: `python -m iqa_lib.score REF DIST [--metric ssim]`.

REF and DIST are two images, or two folders whose images have the same names, or one reference and a folder; or REF
alone is a CSV with columns reference,distorted. With a third image B, or a CSV with columns reference,a,b, the answer
is which of DIST and B is closer to REF. Exit status: 0 all scored, 1 something could not be scored, 2 wrong usage.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import yaml

from iqa_lib.lab import batches, networks
from iqa_lib.weights import WeightsError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.list:
        print(networks.available().to_string())
        return 0
    if not given.reference:
        parser.error("got nothing, expected REF DIST, or a CSV of pairs; --list lists the metrics")
    if any("=" not in option for option in given.option):
        parser.error("--option: expected NAME=VALUE, such as --option vit=b16")
    if not given.distorted and not given.reference.lower().endswith(".csv"):
        parser.error(f"got {given.reference} alone, expected REF DIST, or a CSV of pairs")
    try:
        return _run(given)
    except (ValueError, OSError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m iqa_lib.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", nargs="?", metavar="REF", help="an image, a folder, or a CSV of pairs")
    parser.add_argument("distorted", nargs="?", metavar="DIST", help="an image or a folder")
    parser.add_argument("b", nargs="?", metavar="B", help="another image: which of DIST and B is closer?")
    parser.add_argument("--metric", default="topiq-fr", help="a name from --list, or a run's folder (%(default)s)")
    parser.add_argument("--checkpoint", help="weights: the authors' file, or a run's folder")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (%(default)s)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the network: vit=b16")
    parser.add_argument("--csv", type=Path, help="write a table to this file, one row a pair")
    parser.add_argument("--list", action="store_true", help="list the metrics and what each needs")
    return parser


def _run(given: argparse.Namespace) -> int:
    """Print one score, or write a table to a file or, as CSV, to the screen; returns the exit status."""
    from iqa_lib.lab import scoring  # imports torch

    pairs = _pairs(given)
    options = {name: yaml.safe_load(value) for name, _, value in (option.partition("=") for option in given.option)}
    metric = scoring.load(given.metric, checkpoint=given.checkpoint, device=given.device, **options)
    if given.distorted and len(pairs) == 1 and not given.csv:
        print((metric.prefer if "b" in pairs else metric.score)(*pairs.iloc[0]))
        return 0
    rows = []
    try:
        for row in batches.score_table(pairs, metric):
            rows.append(row)
    finally:  # if the user interrupts it, the rows so far are written
        if given.csv and rows:
            batches.write_table(rows, given.csv)
    if not given.csv:
        print(pd.DataFrame(rows).to_csv(index=False), end="")
    failed = [row["error"] for row in rows if row["error"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} scored: {metric.meaning}", file=sys.stderr)
    for error in failed:
        print(f"not scored: {error}", file=sys.stderr)
    return 1 if failed else 0


def _pairs(given: argparse.Namespace) -> pd.DataFrame:
    """What is to be scored, one row a pair or triplet."""
    if given.b:
        return pd.DataFrame([(given.reference, given.distorted, given.b)], columns=batches.TRIPLET)
    if not given.distorted:
        return batches.pairs_of_csv(given.reference)
    if not Path(given.distorted).is_dir():
        return pd.DataFrame([(given.reference, given.distorted)], columns=batches.PAIR)
    for folder in (given.reference, given.distorted):
        if Path(folder).is_dir() and (others := batches.files_of(folder, images=False)):
            print(f"left out, not images by their endings: {', '.join(map(str, others))}", file=sys.stderr)
    return batches.pairs_of_folders(given.reference, given.distorted)
