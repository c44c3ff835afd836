"""`python -m iqa_lib.lab.report SCALE`: all tables, and the report of them, `outputs/<scale>/tables/report.html`.

It opens with what was found and ends with what is not run and why. With --markdown it is printed instead, as in
`docs/demo_results.md`.
"""

import argparse
import re
from pathlib import Path

import pandas as pd

from iqa_lib.files import atomic, repo_root
from iqa_lib.lab import findings, plan, records, tables
from iqa_lib.lab.execute import execute

SIMULATED = (
    "The scores are **simulated**, the images few, the networks small and trained for seconds: this compares networks "
    "and metrics on the embedded demo set, and says nothing about the papers' numbers."
)
FOUND = (
    "Each paper's full model and other metrics on the same held-out references, mean over seeds [95 % interval over "
    "references]. A difference counts (*differs*) if it is beyond both its interval, paired over references, and what "
    "another training of the same network changes."
)
HOW_TO = (
    "`make reproduce` tries again what failed or was not run; tables of the papers' data sets need these and a GPU: "
    "`make reproduce SCALE=paper DATA=...`."
)
ELSEWHERE = {"demo": "stands on the papers' data sets", "paper": "stands on the demo set, or on hidden labels"}
NOT_RUN = ["table", "rows", "why"]


def opening(scale: str) -> str:
    """What was found, as Markdown: a paragraph and a table."""
    found = findings.findings(scale)
    note = [SIMULATED] if scale == "demo" else []
    parts = [*tables.explained("2AFC SROCC MOS"), findings.reading(found), FOUND, *note]
    return "\n\n".join([*parts, *([tables.markdown(findings.shown(found))] if found.ours.notna().any() else [])])


def not_run(scale: str) -> pd.DataFrame:
    """The rows without a number of ours at this scale, and why; those of a table with one reason in one line."""
    lines = []
    for table in plan.specifications().values():
        measured = [column["name"] for column in plan.columns(table, scale)]
        if "counts" in table or not measured:
            lines.append((table["title"], "all", ELSEWHERE["demo" if scale == "demo" else "paper"]))
            continue
        cells, reasons = tables.comparison(table, scale), {}
        for row, part in cells[cells.column.isin(measured)].groupby("row", sort=False):
            if part.ours.isna().all() and not part.source.str.startswith("reported").any():
                reasons.setdefault("; ".join(part.source.unique()), []).append(row)
        lines += [(table["title"], ", ".join(rows), why) for why, rows in reasons.items()]
    return pd.DataFrame(lines, columns=NOT_RUN)


def closing(scale: str) -> str:
    """What is not run and why, as Markdown."""
    lines = not_run(scale)
    if lines.empty:
        return "Everything was run."
    return f"{HOW_TO}\n\n{tables.markdown(lines)}"


def page(scale: str) -> str:
    """The whole report as Markdown."""
    commits = {records.commit(each) for each in records.read_all(scale, "*/*")}
    made = f"Made by `make reproduce` at commit {', '.join(sorted(commits)) or 'none'}"
    parts = [
        f"# Every table at {scale} scale",
        f"{made}, written by `python -m iqa_lib.lab.report {scale} --markdown`.",
    ]
    parts += ["## What was found", opening(scale)]
    parts += [re.sub("^#", "##", tables.text(name, scale), flags=re.M).strip() for name in plan.specifications()]
    return "\n\n".join([*parts, "## What is not run, and why", closing(scale)]) + "\n"


def report(scale: str) -> Path:
    """Write all tables and the report by `notebooks/07_tables.ipynb`; returns its path."""
    folder = tables.folder(scale)
    execute("07_tables", folder / "report.ipynb", {"scale": scale})
    from nbconvert import HTMLExporter  # slow

    html, _ = HTMLExporter(exclude_input=True).from_filename(str(folder / "report.ipynb"))
    with atomic(folder / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return folder / "report.html"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.lab.report", description=__doc__.splitlines()[0])
    parser.add_argument("scale", help="folder in outputs/, such as demo")
    parser.add_argument("--markdown", action="store_true", help="print the report as Markdown, and write nothing")
    arguments = parser.parse_args()
    if arguments.markdown:
        print(page(arguments.scale), end="")
    else:
        print(report(arguments.scale).relative_to(repo_root()))


if __name__ == "__main__":
    main()
