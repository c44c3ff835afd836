"""Warm processes: what is asked for runs as `python -m` would run it, and its end and its time come back."""

import os
import resource
import subprocess
import sys

import pytest

from iqa_lib.lab import warm

ASKED = """
import os, sys, time
print(sys.argv[1:], os.getcwd(), os.environ["MARK"], "torch" in sys.modules)
print("to stderr", file=sys.stderr)
end = time.process_time() + 0.5
while time.process_time() < end:
    pass
sys.exit({"code": 3, "words": "in words", "nothing": None}[sys.argv[1]])
"""


@pytest.fixture
def asked(tmp_path):
    """How `python -m asked` answers, started through `warm`."""
    (tmp_path / "asked.py").write_text(ASKED)

    def ask(argument):
        env = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "MARK": "here"}
        command = [sys.executable, "-m", "iqa_lib.lab.warm", "asked", argument]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)

    return ask


@pytest.mark.parametrize(
    ("argument", "status", "words"), [("code", 3, ""), ("words", 1, "in words"), ("nothing", 0, "")]
)
def test_without_a_warm_process_a_module_runs_as_usual(asked, tmp_path, argument, status, words):
    answer = asked(argument)
    assert (answer.returncode, answer.stdout) == (status, f"['{argument}'] {tmp_path} here False\n")
    assert answer.stderr == f"to stderr\n{words}\n" if words else "to stderr\n"


def test_a_warm_process_runs_it_with_its_imports_there(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(warm, "import_all", lambda: None)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    with warm.serving():
        answers = [asked(argument) for argument in ("code", "words", "nothing")]
    assert warm.SOCKET not in os.environ
    assert [answer.returncode for answer in answers] == [3, 1, 0]
    assert {answer.stdout.split("] ")[1] for answer in answers} == {f"{tmp_path} here True\n"}
    assert [answer.stderr for answer in answers] == ["to stderr\n", "to stderr\nin words\n", "to stderr\n"]
    assert sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before > 3 * 0.5, "their time counts"


def test_a_dead_warm_process_is_done_without(asked, tmp_path, monkeypatch):
    monkeypatch.setenv(warm.SOCKET, str(tmp_path / "nobody"))
    answer = asked("code")
    assert (answer.returncode, answer.stdout) == (3, f"['code'] {tmp_path} here False\n")


def test_nothing_to_run_is_told():
    answer = subprocess.run([sys.executable, "-m", "iqa_lib.lab.warm"], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (2, "usage: python -m iqa_lib.lab.warm MODULE ARGUMENTS...\n")
