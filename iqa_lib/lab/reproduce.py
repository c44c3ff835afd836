"""`python -m iqa_lib.lab.reproduce SCALE`: all rows by Snakemake, each table as soon as its rows are there, the report.

Shows how far the rows are: one live line in a terminal, else a line for each that is finished. What Snakemake and the
kernels print goes to `outputs/<scale>/reproduce.log`. The exit status is 1 if a row failed, 130 after Ctrl-C. Reads
files alone, and imports no torch.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import mean
from typing import TextIO

from iqa_lib.files import repo_root
from iqa_lib.lab import findings, plan, records, tables, warm

LOOK_EVERY = 1.0  # seconds
PATIENCE = 20  # seconds that interrupted rows have to stop by themselves

Training = tuple[str, int]  # a run, and its seed


class Screen:
    """Lines that stay, and in a terminal one below them that changes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.terminal = stream, stream.isatty()

    def say(self, text: str) -> None:
        print("\r\x1b[K" * self.terminal + text, file=self.stream, flush=True)

    def live(self, text: str) -> None:
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]}\x1b[K", end="", file=self.stream, flush=True)


class Watch:
    """What has become of a scale's rows, as their folders tell.

    `done`, `failed` and `running` are those of the last `look`; the others wait, or were never run.
    """

    def __init__(self, scale: str, seeds: int, cores: int) -> None:
        self.scale, self.cores, self.started = scale, cores, time.time()
        self.tables = {name: plan.trainings(table, scale, seeds) for name, table in plan.specifications().items()}
        rows = sorted({training for needed in self.tables.values() for training in needed})
        self.folders = {training: repo_root() / records.folder(scale, *training) for training in rows}
        models = set(plan.findings(scale).values())
        self.full = [training for training in rows if training[0] in models]
        self.done, self.failed = self._finished(), set()
        self.running: dict[Training, dict] = {}
        self.began: dict[Training, float] = {}
        self.seconds: dict[Training, float] = {}
        self._written: dict[str, list[int]] = {}
        self._told = 0

    def look(self) -> list[str]:
        """Look at all rows; returns a line for each that has finished or failed since the last look."""
        before = self.done | self.failed
        self.running = {each: place for each in self.folders if (place := self._place(each)) is not None}
        self.done = self._finished()
        self.failed = {each for each in self.folders if each not in self.running and self._has_failed(each)}
        for training in self.running:
            self.began.setdefault(training, time.time())
        new = sorted((self.done | self.failed) - before)
        self.seconds |= {training: time.time() - self.began.get(training, self.started) for training in new}
        return [self._outcome(training) for training in new]

    def new_tables(self) -> Iterator[str]:
        """Write the tables all of whose rows are there or failed, if they have changed; gives their headlines."""
        for name, needed in self.tables.items():
            if needed and self.done | self.failed >= set(needed):
                state = [(self.folders[each] / records.RECORD).stat().st_ino for each in needed if each in self.done]
                if self._written.get(name) != state:
                    self._written[name] = state
                    path = tables.write(name, self.scale).relative_to(repo_root())
                    yield f"{tables.headline(name, self.scale)} -> {path}"

    def new_findings(self) -> list[str]:
        """The papers' full models beside other metrics, when each has one training, and when they have all."""
        settled = self.done | self.failed
        stage = (settled >= {each for each in self.full if each[1] == 0}) + (settled >= set(self.full))
        if stage <= self._told:
            return []
        self._told = stage
        return findings.told(findings.findings(self.scale))

    def now(self) -> str:
        """How far everything is, in a line."""
        left = self._seconds_left()
        parts = [f"{len(self.done)}/{len(self.folders)} rows", *([f"{len(self.failed)} failed"] * bool(self.failed))]
        parts += [_clock(time.time() - self.started), *([] if left is None else [f"about {_clock(left)} left"])]
        rows = [f"{_name(each)[3:]} {_described(place)}" for each, place in self.running.items()]
        return " | ".join([", ".join(parts), *rows])

    def missing(self) -> dict[Training, str]:
        """The rows without a record, and why."""
        return {each: self._reason(each) for each in self.folders if each not in self.done}

    def _finished(self) -> set[Training]:
        return {training for training, folder in self.folders.items() if (folder / records.RECORD).exists()}

    def _outcome(self, training: Training) -> str:
        if training in self.failed:
            return f"FAILED {_name(training)}: {self._reason(training)}"
        return f"{_name(training)}: {tables.result(*training, self.scale)}, {self.seconds[training]:.0f} s"

    def _reason(self, training: Training) -> str:
        file = self.folders[training] / records.FAILED
        return file.read_text(encoding="utf-8").strip() if file.exists() else "not run"

    def _seconds_left(self) -> float | None:
        """By what finished rows took, those of the same notebook if there are any; None before there is one."""
        if not self.seconds:
            return None
        now, left = time.time(), 0.0
        for training in self.folders.keys() - self.done - self.failed:
            notebook = training[0].split("/")[0]
            alike = [seconds for (run, _), seconds in self.seconds.items() if run.startswith(notebook)]
            left += max(0, mean(alike or self.seconds.values()) - (now - self.began.get(training, now)))
        return left / self.cores

    def _place(self, training: Training) -> dict | None:
        """What a row that is running tells of its step; None if it is not running."""
        file = self.folders[training] / records.PROGRESS
        with suppress(OSError, ValueError):
            return json.loads(file.read_text(encoding="utf-8")) if self._is_of_now(file) else None
        return None

    def _has_failed(self, training: Training) -> bool:
        with suppress(OSError):
            return self._is_of_now(self.folders[training] / records.FAILED)
        return False

    def _is_of_now(self, file: Path) -> bool:
        """Whether a file was written since the watch began, and not left behind by a killed row."""
        return file.stat().st_mtime > self.started - 1


def reproduce(
    scale: str, workflow: list[str], reporting: list[str], *, seeds: int = 1, cores: int = 2, screen: Screen
) -> int:
    """Run the commands that make all records of a scale, and the report, and show it; returns the exit status."""
    watch, file = Watch(scale, seeds, cores), tables.folder(scale).parent / "reproduce.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    screen.say(
        f"{len(watch.folders)} rows at {scale} scale, {len(watch.done)} of them finished before; {cores} at a time"
    )
    screen.say(f"all that they print: {file.relative_to(repo_root())}")
    with open(file, "w", encoding="utf-8") as log:
        try:
            with _running(workflow, log) as process:
                while process.poll() is None:
                    _show(watch, screen)
                    time.sleep(LOOK_EVERY)
            _show(watch, screen)
            screen.live("writing the report")
            with _running(reporting, log) as writer:
                writer.wait()
        except KeyboardInterrupt:
            screen.say(f"stopped with {len(watch.done)} rows finished; started again, it goes on from there")
            return 130
    _conclude(watch, screen)
    missing = watch.missing()
    if (process.returncode and not missing) or writer.returncode:
        printed = file.read_text(encoding="utf-8", errors="replace").splitlines()
        screen.say("\n".join(["the end of what was printed:", *printed[-15:]]))
    return int(bool(missing or process.returncode or writer.returncode))


def _show(watch: Watch, screen: Screen) -> None:
    for line in watch.look():
        if line.startswith("FAILED") or not screen.terminal:
            screen.say(line)
    for line in (*watch.new_findings(), *watch.new_tables()):
        screen.say(line)
    screen.live(watch.now())


def _conclude(watch: Watch, screen: Screen) -> None:
    """What came out, what is missing and why, and what to look at first."""
    screen.say(f"{len(watch.done)} of {len(watch.folders)} rows in {_clock(time.time() - watch.started)}")
    for training, reason in watch.missing().items():
        notebook = records.folder(watch.scale, *training) / records.NOTEBOOK
        screen.say(f"  without a number: {_name(training)}: {reason} ({notebook})")
    page = tables.folder(watch.scale) / "report.html"
    screen.say(f"report: {page.relative_to(repo_root())}")
    screen.say("  look first at its opening, the papers' networks beside other metrics; its end says what is not run")
    for run in dict.fromkeys(run for run, seed in watch.full if (run, seed) in watch.done):
        folder = records.folder(watch.scale, run, 0)
        screen.say(f"  what {run} looks at: {folder / records.FIGURES}, and {folder / records.NOTEBOOK}")


@contextmanager
def _running(command: list[str], log: TextIO) -> Iterator[subprocess.Popen]:
    """A command in a process group of its own, which is stopped with all its children if the block is left early."""
    bin_folder = str(Path(sys.executable).parent)
    env = os.environ | {"TQDM_DISABLE": "1", "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    options = dict(stdout=log, stderr=subprocess.STDOUT, cwd=repo_root(), env=env, start_new_session=True)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)


def _name(training: Training) -> str:
    run, seed = training
    return f"{run} seed {seed}" if seed else run


def _described(place: dict) -> str:
    if "name" not in place:
        return "starting"
    note = f" {place['note']}" if place["note"] else ""
    return f"{place['name']} {place['step']}/{place['steps'] or '?'}{note}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02}" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.lab.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("scale", nargs="?", default="demo", help="demo or paper")
    parser.add_argument(
        "--seeds", type=int, default=1, help="trainings of each row; at demo scale full models have three"
    )
    parser.add_argument("--cores", type=int, default=2, help="rows at a time")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that they share")
    parser.add_argument("--data", help="folder of the data sets")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    # --nolock: a killed run would leave Snakemake's lock behind; every file and training step here has its own lock
    workflow = [sys.executable, "-m", "snakemake", "runs", "--nolock", "--cores", str(given.cores)]
    workflow += ["--resources", f"gpu={given.gpus}"] if given.gpus else []
    workflow += ["--config", f"scale={given.scale}", f"seeds={given.seeds}", "watched=true"]
    if given.data:
        os.environ[records.DATA] = str(Path(given.data).expanduser().resolve())
        workflow += [f"data={os.environ[records.DATA]}"]
    reporting = [sys.executable, "-m", "iqa_lib.lab.report", given.scale]
    options = {"seeds": given.seeds, "cores": given.cores, "screen": Screen(sys.stdout)}
    with warm.serving() if given.scale == "demo" else nullcontext():
        status = reproduce(given.scale, workflow, reporting, **options)
    sys.exit(status)


if __name__ == "__main__":
    main()
