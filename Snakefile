"""Every table row is one papermill run; a row that is finished is not run again.

snakemake --cores 2                          all tables at demo scale
snakemake --cores 2 --config scale=paper     at paper scale (data sets in data/, GPU)
snakemake --cores 2 --config seeds=5         seeds 0 to 4
"""

from pathlib import Path

import yaml

SCALE = config.get("scale", "demo")
SEEDS = range(int(config.get("seeds", 1)))
TABLES = yaml.safe_load(open("params/tables.yaml"))


def records(table):
    """Records that a table is made of: its rows' own runs, and those of its columns that belong to this scale."""
    rows, columns = (TABLES[table].get(part, []) for part in ("rows", "columns"))
    shown = [column for column in columns if "data" in column and (column["data"] == "demo") == (SCALE == "demo")]
    runs = [column["run"] for column in shown if "run" in column]
    if shown or not columns:
        runs += [run for row in rows for run in (*row.get("ensemble", []), *([row["run"]] if "run" in row else []))]
    runs += [row["runs"][column["data"]] for row in rows for column in shown if column["data"] in row.get("runs", {})]
    return expand(f"outputs/{SCALE}/{{run}}/seed{{seed}}/run.json", run=sorted(set(runs)), seed=SEEDS)


def parameters(wildcards):
    """The scale's whole profile, the row, and what the row has of its own at this scale; those that there are."""
    files = f"{SCALE}.yaml", f"{wildcards.row}.yaml", f"{SCALE}/{wildcards.row}.yaml"
    return [path for file in files if (path := Path("params", wildcards.notebook, file)).exists()]


rule all:
    input:
        expand(f"outputs/{SCALE}/tables/{{table}}.md", table=TABLES),


rule table:
    input:
        "params/tables.yaml",
        lambda wildcards: records(wildcards.table),
    output:
        f"outputs/{SCALE}/tables/{{table}}.md",
    shell:
        "python -m iqa_lib.tables {SCALE} {wildcards.table}"


rule run:
    input:
        notebook="notebooks/{notebook}.ipynb",
        parameters=parameters,
    output:
        record=f"outputs/{SCALE}/{{notebook}}/{{row}}/seed{{seed}}/run.json",
    params:
        executed=f"outputs/{SCALE}/{{notebook}}/{{row}}/seed{{seed}}/run.ipynb",
    threads: 1
    shell:
        "OMP_NUM_THREADS={threads} python -m iqa_lib.runs {wildcards.notebook} {params.executed} {input.parameters}"
        " --seed {wildcards.seed}"
