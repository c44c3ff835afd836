"""Every table row is one papermill run; a finished row is not run again.

snakemake --cores 2                          all tables at demo scale, and a report of them
snakemake --cores 2 --config scale=paper     at paper scale (data sets in data/, or --config data=...; GPU)
snakemake --cores 2 --config seeds=5         seeds 0 to 4

With --keep-going a failed row does not stop the others; the tables then show why it failed.
"""

from pathlib import Path

from iqa_lib.lab import plan, records

SCALE = config.get("scale", "demo")
SEEDS = range(int(config.get("seeds", 1)))
DATA_ROOT = f" --data-root '{config['data']}'" if "data" in config else ""
TABLES = plan.specifications()
FOLDER = f"outputs/{SCALE}/tables"
RUN = records.folder(SCALE, "{notebook}/{row}", "{seed}")
REPORT = (
    f"papermill --no-progress-bar notebooks/07_tables.ipynb {FOLDER}/report.ipynb -p scale {SCALE}"
    f" && jupyter nbconvert --log-level WARN --to html --no-input {FOLDER}/report.ipynb"
)


def records_of(table):
    """The records that a table is made of, one a run and seed."""
    return [str(records.folder(SCALE, run, seed) / records.RECORD) for run in plan.wanted(table, SCALE) for seed in SEEDS]


def parameters(wildcards):
    """The files of the scale's profile, the row, and the row at this scale; those that exist."""
    files = f"{SCALE}.yaml", f"{wildcards.row}.yaml", f"{SCALE}/{wildcards.row}.yaml"
    return [path for file in files if (path := Path("params", wildcards.notebook, file)).exists()]


rule all:
    input:
        f"{FOLDER}/report.html",
        [record for table in TABLES.values() for record in records_of(table)],  # retries rows that failed


rule report:
    input:
        expand(f"{FOLDER}/{{table}}.md", table=TABLES),
        "notebooks/07_tables.ipynb",
    output:
        f"{FOLDER}/report.html",
    shell:
        REPORT


rule table:
    input:
        "params/tables.yaml",
        lambda wildcards: records_of(TABLES[wildcards.table]),
    output:
        f"{FOLDER}/{{table}}.md",
    shell:
        "python -m iqa_lib.lab.tables {SCALE} {wildcards.table}"


rule run:
    input:
        notebook="notebooks/{notebook}.ipynb",
        parameters=parameters,
    output:
        record=f"{RUN}/{records.RECORD}",
    params:
        executed=f"{RUN}/{records.NOTEBOOK}",
    threads: 1
    resources:
        gpu=0 if SCALE == "demo" else 1,
        mem_mb=4_000 if SCALE == "demo" else 32_000,
        runtime="1h" if SCALE == "demo" else "48h",
    shell:
        "OMP_NUM_THREADS={threads} python -m iqa_lib.lab.execute {wildcards.notebook} {params.executed} {input.parameters}"
        " --seed {wildcards.seed}{DATA_ROOT}"


onerror:
    shell(f"python -m iqa_lib.lab.tables {SCALE} > /dev/null && {REPORT}")
