"""Every command of the README: the cheap ones run in a fresh shell, the others are checked without running them."""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from iqa_lib.files import repo_root
from iqa_lib.lab.parameters import read_parameters, validate

ROOT = repo_root()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
LINES = [line for language, block in BLOCKS if language in ("", "sh", "bash") for line in block.splitlines()]
COMMANDS = [part.strip() for line in LINES for part in re.split(r"\s{2,}|\s#", line)[0].split("&&") if part.strip()]


def shell(command: str) -> str:
    """What a command prints in a shell that knows nothing but where this environment is."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    known = {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": os.environ["HOME"], "COLUMNS": "400"}
    done = subprocess.run(["bash", "-c", command], env=known, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_the_readme_has_commands_of_each_kind():
    words = {command.split()[0] for command in COMMANDS}
    assert {"make", "papermill", "python", "snakemake", "."} <= words
    assert words <= {"make", "papermill", "python", "snakemake", "pip", "."}, "a kind that no test here looks at"
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("command", sorted({each for each in COMMANDS if each.startswith("make")}))
def test_make_knows_its_targets(command):
    assert shell(f"{command} --dry-run --always-make")


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("papermill --")])
def test_papermill_lists_every_parameter(command):
    shown, name = shell(command), Path(command.split()[-1]).stem
    assert all(f"{parameter}: " in shown for parameter in validate(name, {}))


@pytest.mark.parametrize("command", [each for each in COMMANDS if re.match("papermill [^-]", each)])
def test_papermills_parameters_are_those_of_the_notebook(command):
    from papermill.cli import _resolve_type

    _, notebook, output, *options = shlex.split(command)
    given, files = {}, []
    while options:
        kind = options.pop(0)
        assert kind in ("-p", "-f"), f"{command}: the test does not know {kind}"
        files += [ROOT / options.pop(0)] if kind == "-f" else []
        given |= {options.pop(0): _resolve_type(options.pop(0))} if kind == "-p" else {}
    assert output.endswith(".ipynb")
    assert (ROOT / notebook).is_file()
    validate(Path(notebook).stem, read_parameters(*files) | given)


@pytest.mark.parametrize("module", ["iqa_lib.score", "iqa_lib.data"])
def test_programs_have_the_options_that_are_shown(module):
    shown = [command for command in COMMANDS if command.startswith(f"python -m {module} ")]
    help_text = shell(f"python -m {module} --help")
    assert shown
    for command in shown:
        for option in re.findall(r"--[\w-]+", command):
            assert option in help_text, command


def test_every_program_of_the_readme_is_looked_at():
    programs = {command.split()[2] for command in COMMANDS if command.startswith("python -m ")}
    assert programs == {"iqa_lib.score", "iqa_lib.data"}


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.endswith(" --list") or " where " in each])
def test_what_only_tells_something_runs(command):
    assert shell(command)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("snakemake")])
def test_snakemakes_profiles_and_settings_exist(command):
    workflow, words = (ROOT / "Snakefile").read_text(encoding="utf-8"), shlex.split(command)
    for option, value in pairwise(words):
        assert option != "--profile" or (ROOT / value / "config.yaml").is_file()
        assert "=" not in value or f'"{value.partition("=")[0]}"' in workflow, f"the Snakefile does not read {value}"


# --- Setting up


@pytest.fixture
def folder(tmp_path):
    """A folder with the Makefile, and a stand-in for Python that notes what it is asked and makes one like itself."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    script = f"""#!/bin/sh
echo "$@" >> {shlex.quote(str(tmp_path))}/asked
case "$*" in
-V) echo Python 3.12.1;;
-c*pip*) test ! -f "$0.no_pip" && test "${{2#*3.12.1}}" != "$2";;
-c*) exec {sys.executable} -c "import sys; sys.version_info = ${{FAKE:-(3, 12, 1)}}; ${{2#import sys; }}";;
"-m venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
esac
"""
    (tmp_path / "fake").write_text(script)
    (tmp_path / "fake").chmod(0o755)
    return tmp_path


def make(folder, *arguments, **environment) -> tuple[int, str, list[str]]:
    """Exit status, what is printed, and what Python was asked for with `-m`."""
    (folder / "asked").write_text("")
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "DATA"))}
    call = ["make", "-s", f"PYTHON={folder}/fake", *arguments]
    done = subprocess.run(call, cwd=folder, env=known | environment, capture_output=True, encoding="utf-8")
    asked = [line for line in (folder / "asked").read_text().splitlines() if line.startswith("-m")]
    return done.returncode, done.stdout + done.stderr, asked


def test_an_environment_is_made_once_and_a_half_made_one_anew(folder):
    new = "-m venv --clear .venv"
    status, shown, asked = make(folder)
    assert status == 0
    assert ". .venv/bin/activate" in shown
    assert asked[0] == new
    assert new not in make(folder)[2]
    (folder / "requirements.lock").touch()
    assert make(folder)[2][0].startswith("-m pip install"), "whole and of this Python: only filled"
    (folder / ".venv/.done").unlink()
    (folder / ".venv/bin/python.no_pip").touch()
    assert make(folder)[2][0] == new
    (folder / ".venv/.done").unlink()
    (folder / ".venv/bin/python").write_text("#!/bin/sh\nexit 1\n")
    assert make(folder)[2][0] == new


@pytest.mark.parametrize(("version", "fits"), [((3, 10, 14), False), ((3, 11, 2), True), ((3, 14, 0), False)])
def test_another_python_is_refused_before_anything_is_made(folder, version, fits):
    status, shown, asked = make(folder, FAKE=str(version))
    assert (status == 0) == bool(asked) == fits
    refused = f"Python: got {version[0]}.{version[1]}, expected 3.11 to 3.13: give another, make PYTHON=python3.12"
    assert (refused in shown) != fits


@pytest.mark.parametrize("data", ["/data/my sets", "/data/o'brien", "~/sets", 'a "b" c'])
def test_data_reaches_the_program_as_it_was_given(folder, data):
    make(folder)
    (folder / ".venv/bin/python").write_text('#!/bin/sh\nfor one in "$@"; do echo "<$one>"; done\n')
    shown = make(folder, "reproduce", f"DATA={data}")[1].splitlines()
    assert shown[shown.index("<--data>") + 1] == f"<{data}>"
    assert "<--data>" not in make(folder, "reproduce")[1]
