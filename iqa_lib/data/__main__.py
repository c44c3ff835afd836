"""`python -m iqa_lib.data check NAME ROOT` verifies a data set on disk; `fetch NAME ROOT` brings it there.

`where NAME` prints where it comes from.

`python -m iqa_lib.data pages > docs/datasets.md` writes a page about each data set.
"""

import argparse
import sys
from pathlib import Path

from iqa_lib.data.base import NAMES, DataError
from iqa_lib.data.check import check, page, where
from iqa_lib.data.fetch import fetch

PAGES = """# The data sets

None is shipped with this repository; the demo set is made on first use.
`python -m iqa_lib.data fetch NAME FOLDER` downloads one, `check NAME FOLDER` verifies it.
The addresses were found in public scripts and pages; nobody has fetched from them with this program yet.
Made by `python -m iqa_lib.data pages > docs/datasets.md`.

"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.data", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="verify a data set on disk; nothing is downloaded")
    checking.add_argument("name")
    checking.add_argument("root", nargs="?", help="the folder that the archives were unpacked into")
    checking.add_argument("--contact-sheet", metavar="FILE", help="PNG file to draw some records with labels into")
    checking.add_argument("--no-decode", action="store_true", help="only look whether the images exist")
    told = "download, unpack and verify a data set; goes on where it was cut"
    fetching = commands.add_parser("fetch", help=told, allow_abbrev=False)
    fetching.add_argument("name")
    fetching.add_argument("root", help="the folder to unpack into")
    fetching.add_argument("--accept-terms", action="store_true", help="you have read the terms, which are shown first")
    fetching.add_argument("--part", default="", help="only this part, such as val of bapps")
    fetching.add_argument("--source", default="", help="only from there, such as hub; else the first that answers")
    commands.add_parser("where", help="official page, archives, expected layout, terms of use").add_argument("name")
    commands.add_parser("pages", help="Markdown: a page about every data set")
    given = parser.parse_args(arguments)
    try:
        if given.command == "pages":
            print(PAGES + "\n".join(map(page, NAMES)), end="")
        elif given.command == "where":
            print(where(given.name))
        else:
            if given.command == "fetch":
                options = {"accept_terms": given.accept_terms, "part": given.part, "source": given.source}
                report = fetch(given.name, Path(given.root).expanduser(), **options)
            else:
                report = check(given.name, given.root, decode=not given.no_decode, contact_sheet=given.contact_sheet)
            print(report or "")
            return 0 if report is None or report.ok else 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on from there", file=sys.stderr)
        return 130
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
