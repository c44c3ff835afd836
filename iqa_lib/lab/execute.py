"""`python -m iqa_lib.lab.execute NOTEBOOK OUTPUT PARAMETERS.yaml ...`: one run of a notebook, by papermill.

Stricter than papermill: a parameter that is unknown, of the wrong type or impossible stops it before any work. Imports
no torch, so that a row starts at once.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path

from filelock import FileLock, Timeout

from iqa_lib.files import atomic, cache_dir, repo_root
from iqa_lib.lab import records, warm
from iqa_lib.lab.parameters import ParameterError, read_parameters, validate
from iqa_lib.progress import PLACE

VISIBLE = "CUDA_VISIBLE_DEVICES"
FIGURE = "figure"
"""Tag of the cells that a table does not need."""


def execute(notebook: str, output: Path | str, parameters: Mapping[str, object], *, table_only: bool = False) -> None:
    """Check the parameters, then run a notebook by papermill into `output`, which also shows a cell that fails.

    `table_only` leaves out the cells tagged `figure`, which make nothing that others use.
    """
    validate(notebook, parameters)
    import papermill  # slow

    Path(output).parent.mkdir(parents=True, exist_ok=True)
    source = repo_root() / "notebooks" / f"{notebook}.ipynb"
    options = {"parameters": dict(parameters), "cwd": str(repo_root()), "progress_bar": False}
    options |= {"skip_cells_with_tag": FIGURE} if table_only else {}
    options |= {"kernel_manager_class": _warm_kernels()} if warm.SOCKET in os.environ else {}
    papermill.execute_notebook(str(source), str(output), **options)


def _warm_kernels() -> type:
    """Kernels that are forked from the warm process."""
    from jupyter_client.manager import AsyncKernelManager

    class WarmKernels(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            command = super().format_kernel_cmd(extra_arguments)
            return [sys.executable, "-m", warm.__name__, *command[command.index("-m") + 1 :]]

    return WarmKernels


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib.lab.execute", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="name without ending, such as 03_prfnet")
    parser.add_argument("output", help="the executed notebook to write")
    parser.add_argument("files", nargs="*", help="YAML files of parameters; later files override earlier ones")
    parser.add_argument("--seed", type=int, help="overrides the files' seed")
    parser.add_argument("--data-root", help="overrides the files' data_root")
    parser.add_argument("--table-only", action="store_true", help=f"leave out the cells tagged `{FIGURE}`")
    arguments = parser.parse_args()
    own = {"seed": arguments.seed, "data_root": arguments.data_root}
    parameters = read_parameters(*arguments.files) | {name: value for name, value in own.items() if value is not None}
    reason = Path(arguments.output).with_name(records.FAILED)
    reason.unlink(missing_ok=True)
    try:
        with one_gpu(), watched(reason.with_name(records.PROGRESS)):
            execute(arguments.notebook, arguments.output, parameters, table_only=arguments.table_only)
    except Exception as error:
        in_cell = hasattr(error, "ename")  # then it is papermill's, and holds the error raised in the cell
        name, words = (error.ename, error.evalue) if in_cell else (type(error).__name__, str(error))
        with atomic(reason) as temporary:
            temporary.write_text(f"{name}: {' '.join(words.split())}\n", encoding="utf-8")
        if not in_cell and not isinstance(error, ParameterError):
            raise
        sys.exit(f"{arguments.notebook} with {' '.join(arguments.files)} failed:\n{error}")


@contextmanager
def watched(place: Path) -> Iterator[None]:
    """Let this process and its kernels tell in a file how far they are; it is there only as long as they run."""
    with atomic(place) as temporary:
        temporary.write_text("{}", encoding="utf-8")
    os.environ[PLACE] = str(place.resolve())
    try:
        yield
    finally:
        del os.environ[PLACE]
        place.unlink()


@contextmanager
def one_gpu() -> Iterator[None]:
    """On a machine with several GPUs, show this process and its kernels one that no other run uses; else do nothing."""
    devices = _gpus()
    if len(devices) < 2:
        yield
        return
    cache_dir().mkdir(parents=True, exist_ok=True)
    for device in cycle(devices):
        with suppress(Timeout), FileLock(cache_dir() / f"gpu-{device}.lock", timeout=1):
            before = {name: os.environ[name] for name in [VISIBLE] if name in os.environ}
            os.environ[VISIBLE] = device
            try:
                yield
            finally:
                del os.environ[VISIBLE]
                os.environ.update(before)
            return


def _gpus() -> list[str]:
    """The GPUs that this process may use: those of CUDA_VISIBLE_DEVICES, else the machine's."""
    if (seen := os.environ.get(VISIBLE)) is not None:
        return [device for device in seen.split(",") if device]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.splitlines()
    return [str(number) for number, _ in enumerate(line for line in listed if line.startswith("GPU "))]


if __name__ == "__main__":
    main()
