"""Score images of your own: `python -m iqa_lib.score REF DIST [--metric psnr,ssim]`.

REF and DIST are two images; or two folders whose images have equal names, or names that begin with a reference's
(I01.png, I01_02_03.png); or one reference and a folder; or REF alone is a CSV with columns reference,distorted and any
others. With a third image B, or a CSV with columns reference,a,b, the answer is which of DIST and B is closer to REF.
Exit status: 0 all scored, 1 something could not be read, scored or written, 2 arguments that do not fit together, 130
interrupted.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from iqa_lib.lab import batches, networks
from iqa_lib.weights import WeightsError

if TYPE_CHECKING:
    from iqa_lib.lab.scoring import Metric


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    if hasattr(sys.stdout, "reconfigure"):  # a name that the terminal cannot print is printed with escapes
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="backslashreplace")
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        status = _listed() if given.list else _run(given, parser)
        sys.stdout.flush()
    except BrokenPipeError:  # by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except (ValueError, OSError, WeightsError) as error:
        _say(error)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m iqa_lib.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", nargs="?", metavar="REF", help="an image, a folder, or a CSV of pairs")
    parser.add_argument("distorted", nargs="?", metavar="DIST", help="an image or a folder")
    parser.add_argument("b", nargs="?", metavar="B", help="another image: which of DIST and B is closer?")
    parser.add_argument(
        "--metric", default=networks.DEFAULT, help="names from --list with commas, or a run's folder (%(default)s)"
    )
    parser.add_argument("--checkpoint", help="weights: the authors' file, or a run's folder")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (%(default)s)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the network: vit=b16")
    parser.add_argument("--recursive", action="store_true", help="take the images in subfolders, too")
    parser.add_argument("--csv", type=Path, help="write a table to this new file, a row as soon as it is scored")
    parser.add_argument("--resume", action="store_true", help="go on with the --csv of a run that was stopped")
    parser.add_argument(
        "--mos", metavar="COLUMN", help="agreement with these human scores of the CSV (mos, if it is there)"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw them against the metrics, in this new file")
    parser.add_argument("--list", action="store_true", help="list the metrics, and what each needs")
    return parser


def _listed() -> int:
    for name, row in networks.available().iterrows():
        print(
            f"{name:15} {row.better:11}  {row.range:11}  {'here    ' if row.here else 'not here'}  {row.needs}".rstrip()
        )
    return 0


def _run(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print one score, or write a table to a file or, as CSV, to the screen; returns the exit status."""
    names, options = _checked(given, parser)
    pairs = _pairs(given)
    column = given.mos or ("mos" if "mos" in pairs[0] and "distorted" in pairs[0] else "")
    if given.plot and not column:
        parser.error("--plot: expected a CSV with a column mos, or another one named by --mos")
    if given.csv:
        batches.check_target(given.csv, [given.reference, given.distorted or given.reference], given.resume)
    if given.plot and (given.plot.suffix.lower() != ".png" or os.path.lexists(given.plot)):
        raise ValueError(f"--plot: got {given.plot}, expected a new file: give a new name that ends in .png")
    from iqa_lib.lab import scoring, summary  # imports torch

    scores = summary.human_scores(pairs, column) if column else []
    metrics = [scoring.load(name, checkpoint=given.checkpoint, device=given.device, **options) for name in names]
    if "distorted" in pairs[0] and (asked := [metric.name for metric in metrics if metric.triplets]):
        raise ValueError(f"{asked[0]} only compares two images: give REF A B, or a CSV with columns reference,a,b")
    table = batches.Table(pairs, metrics, given.csv)
    if given.csv:
        rows = _to_file(table, metrics, given.csv)
    elif given.distorted and len(pairs) == 1 and not Path(given.distorted).is_dir():
        return _to_screen(next(batches.score_rows(pairs, metrics)), metrics)
    else:
        rows = list(table.write(sys.stdout, batches.score_rows(pairs, metrics)))
    _tell(rows, metrics)
    if column:
        for line in summary.agreement_lines(rows, metrics, column, scores):
            _say(line)
    if given.plot:
        summary.plot(rows, metrics, column, scores, given.plot)
    return 1 if any(row["error"] for row in rows) else 0


def _checked(given: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[list[str], dict]:
    """The metrics' names and the network's options; wrong usage ends here."""
    if not given.reference:
        parser.error("got nothing, expected REF DIST, or a CSV of pairs; --list lists the metrics")
    if not given.distorted and (not given.reference.lower().endswith(".csv") or Path(given.reference).is_dir()):
        parser.error(f"got {given.reference} alone, expected REF DIST, or a CSV of pairs")
    if Path(given.reference).is_dir() and not os.path.lexists(given.distorted):
        parser.error(f"there is no {given.distorted} (from {Path.cwd()}): check the path")
    if Path(given.reference).is_dir() and not Path(given.distorted).is_dir():
        parser.error(
            f"got the folder {given.reference} and {given.distorted}, which is none, expected two folders, or one "
            "reference and a folder: FILE FOLDER, in this order"
        )
    if given.resume and not given.csv:
        parser.error("--resume: expected --csv FILE, the table to go on with")
    names = [given.metric] if Path(given.metric).is_dir() else [name.strip() for name in given.metric.split(",")]
    if not all(names):
        parser.error(f"--metric: got {given.metric!r}, expected names with commas between them: see --list")
    if len(names) > 1 and (given.checkpoint or given.option):
        parser.error("--checkpoint and --option belong to one metric: give one --metric")
    options = {}
    for option in given.option:
        name, equals, value = option.partition("=")
        if not equals or not name.isidentifier() or name in ("metric", "checkpoint", "device"):
            parser.error(f"--option: got {option}, expected NAME=VALUE of the network, such as --option vit=b16")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            parser.error(f"--option: got {option}, whose value cannot be read ({' '.join(str(error).split())})")
    return names, options


def _pairs(given: argparse.Namespace) -> list[dict[str, str]]:
    """What is to be scored."""
    if given.b:
        return [dict(zip(batches.TRIPLET, (given.reference, given.distorted, given.b), strict=True))]
    if not given.distorted:
        return batches.pairs_of_csv(given.reference)
    if not Path(given.distorted).is_dir():
        return [dict(zip(batches.PAIR, (given.reference, given.distorted), strict=True))]
    for folder in (given.reference, given.distorted):
        if Path(folder).is_dir() and (others := batches.left_out(folder, given.recursive)):
            _say(others)
    return batches.pairs_of_folders(given.reference, given.distorted, given.recursive)


def _to_file(table: batches.Table, metrics: Sequence["Metric"], file: Path) -> list[dict]:
    """All rows, those that the file already has and those that are scored now; whatever ends it, they are there."""
    rows = table.finished()
    if rows:
        failed = sum(bool(row["error"]) for row in rows)
        again = f"; {failed} that failed are tried again" * bool(failed)
        _say(f"{file} has {len(rows)} of {len(table.pairs)} rows, which are kept{again}")
    rows = table.renewed(rows, metrics)
    table.begin(rows)
    try:
        for row in table.append(batches.score_rows(table.pairs, metrics, len(rows)), len(rows)):
            rows.append(row)
    except BaseException:
        _say(f"stopped: {file} holds {len(rows)} of {len(table.pairs)} rows; the same command with --resume goes on")
        raise
    return rows


def _to_screen(row: dict, metrics: Sequence["Metric"]) -> int:
    for metric in metrics:
        if row[metric.name] != "":
            print(repr(row[metric.name]))
    for text in filter(None, (row["warning"], row["error"])):
        _say(text)
    return 1 if row["error"] else 0


def _tell(rows: list[dict], metrics: Sequence["Metric"]) -> None:
    from iqa_lib.lab import summary

    for line in summary.lines(rows, metrics):
        _say(line)
    for row in rows:
        if row["warning"]:
            _say(f"warning: {row['warning']}")
        if row["error"]:
            image = row[batches.image_columns(row)[-1]]
            _say(f"not scored: {row['error'] if image in row['error'] else f'{image}: ' + row['error']}")


def _say(text: object) -> None:
    """Beside the scores, with advice in the syntax of the command line: --checkpoint x for `checkpoint=x`."""
    print(re.sub(r"\b(checkpoint|device|metric)=(<[^>]*>|'[^']*'|\S+)", r"--\1 \2", str(text)), file=sys.stderr)
