"""Every table row is one papermill run; a row that is finished is not run again.

snakemake --cores 2                          all tables at demo scale
snakemake --cores 2 --config scale=paper     at paper scale (data sets in data/, GPU)
snakemake --cores 2 --config seeds=5         seeds 0 to 4
"""

import yaml

SCALE = config.get("scale", "demo")
SEEDS = range(int(config.get("seeds", 1)))
TABLES = yaml.safe_load(open("params/tables.yaml"))


def records(table):
    runs = [row["run"] for row in TABLES[table].get("rows", [])]
    return expand(f"outputs/{SCALE}/{{run}}/seed{{seed}}/run.json", run=runs, seed=SEEDS)


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
        profile=f"params/{{notebook}}/{SCALE}.yaml",
        row="params/{notebook}/{row}.yaml",
    output:
        record=f"outputs/{SCALE}/{{notebook}}/{{row}}/seed{{seed}}/run.json",
    params:
        executed=f"outputs/{SCALE}/{{notebook}}/{{row}}/seed{{seed}}/run.ipynb",
    threads: 2
    shell:
        "python -m iqa_lib.runs {wildcards.notebook} {params.executed} {input.profile} {input.row}"
        " --seed {wildcards.seed}"
