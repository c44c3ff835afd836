"""What plans, lists and helps starts at once: it imports none of the libraries that compute."""

import subprocess
import sys

SCRIPT = """
import sys
from contextlib import redirect_stdout
from io import StringIO

from iqa_lib.lab import plan, records

names = plan.specifications(), records.finished()
assert "pandas" not in sys.modules
assert "scipy" not in sys.modules

from iqa_lib.lab.command import main

out = StringIO()
with redirect_stdout(out):
    try:
        main(["--help"])
    except SystemExit as end:
        assert end.code == 0
    assert main(["--list"]) == 0
assert "--checkpoint" in out.getvalue() and "gmsd" in out.getvalue()

from iqa_lib.lab import execute, report, reproduce, tables

tables.comparison(plan.specifications()["prfnet_table2"], "nowhere")
report.page("nowhere")
heavy = {"torch", "accelerate", "piq", "lpips", "torchvision", "timm", "seaborn"} & set(sys.modules)
assert not heavy, heavy
"""


def test_planning_listing_and_help_import_no_network_library():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
