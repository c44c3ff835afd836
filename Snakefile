"""Every table row is one papermill run; a finished row is not run again.

snakemake --cores 2                          all tables at demo scale, and a report of them
snakemake --cores 2 --config scale=paper     at paper scale (data sets in data/, or --config data=...; GPU)
snakemake --cores 2 --config seeds=5         seeds 0 to 4

`make reproduce` shows how far it is (`iqa_lib.lab.reproduce`). A failed row does not stop the others
(profiles/default/config.yaml); the tables then show why it failed.
"""

import os
import shlex

from iqa_lib.lab import plan, records

SCALE = config.get("scale", "demo")
SEEDS = int(config.get("seeds", 1))
DATA_ROOT = f" --data-root {shlex.quote(config['data'])}" if "data" in config else ""
os.environ |= {records.DATA: config["data"]} if "data" in config else {}
TABLES = plan.specifications()
FIGURES = [name for name, table in TABLES.items() if "figure" in table]
FOLDER = f"outputs/{SCALE}/tables"
RUN = records.folder(SCALE, "{notebook}/{row}", "{seed}")
TRAININGS = sorted({each for table in TABLES.values() for each in plan.trainings(table, SCALE, SEEDS)})


def parameters(wildcards):
    return plan.parameter_files(f"{wildcards.notebook}/{wildcards.row}", SCALE)


def of_run(function):
    """A function of `plan` as one of a run's wildcards."""
    return lambda wildcards: function(f"{wildcards.notebook}/{wildcards.row}", int(wildcards.seed), SCALE)


rule all:
    input:
        f"{FOLDER}/report.html",


rule runs:
    input:
        [str(records.folder(SCALE, *each) / records.RECORD) for each in TRAININGS],
        expand(f"{FOLDER}/{{table}}.png", table=FIGURES),


rule figure:
    input:
        lambda wildcards: [
            str(records.folder(SCALE, run, 0) / records.RECORD) for run in plan.wanted(TABLES[wildcards.table], SCALE)
        ],
    output:
        f"{FOLDER}/{{table}}.png",
    wildcard_constraints:
        table="|".join(FIGURES),
    shell:
        "python -m iqa_lib.lab.gallery {SCALE} {wildcards.table}"


rule report:
    input:
        "params/tables.yaml",
        "notebooks/07_tables.ipynb",
        rules.runs.input,
    output:
        f"{FOLDER}/report.html",
        expand(f"{FOLDER}/{{table}}.md", table=TABLES),
    shell:
        "python -m iqa_lib.lab.report {SCALE}"


rule run:
    input:
        notebook="notebooks/{notebook}.ipynb",
        parameters=parameters,
    output:
        record=f"{RUN}/{records.RECORD}",
    params:
        executed=f"{RUN}/{records.NOTEBOOK}",
        cells=lambda wildcards: "" if of_run(plan.draws_all)(wildcards) else " --table-only",
    priority: of_run(plan.priority)
    threads: 1
    resources:
        gpu=0 if SCALE == "demo" else 1,
        mem_mb=4_000 if SCALE == "demo" else 32_000,
        runtime="1h" if SCALE == "demo" else "48h",
    shell:
        "OMP_NUM_THREADS={threads} python -m iqa_lib.lab.warm iqa_lib.lab.execute {wildcards.notebook} {params.executed} {input.parameters}"
        " --seed {wildcards.seed}{DATA_ROOT}{params.cells}"


onerror:
    if "watched" not in config:  # by `iqa_lib.lab.reproduce`, which makes the report itself
        shell("python -m iqa_lib.lab.report {SCALE}")
