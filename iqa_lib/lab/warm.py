"""Processes that start at once: forked from one that has imported torch and all that the notebooks import.

`serving()` starts that process and names its socket in the environment. While it is there, a row and its kernel are
started by `python -m iqa_lib.lab.warm MODULE ARGUMENTS...`, which asks it to run a module as `python -m` would, in a
child with this process's environment, folder and output, and waits for the child's end. Without it the module runs in
this process as usual.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOCKET = "IQA_LIB_WARM"
"""The environment variable that names the socket."""
STREAMS = (0, 1, 2)
SETTINGS = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
"""Of the environment, what libraries read once, when they are imported."""


@contextmanager
def serving() -> Iterator[None]:
    """Have a warm process as long as the block lasts; it and its children end with the block."""
    with tempfile.TemporaryDirectory() as folder:
        address = os.environ[SOCKET] = str(Path(folder, "warm"))
        options = dict(stdin=subprocess.DEVNULL, start_new_session=True, env=os.environ | SETTINGS)
        with socket.socket(socket.AF_UNIX) as requests:  # they wait here from the beginning
            requests.bind(address)
            requests.listen()
            command = [sys.executable, "-c", f"from iqa_lib.lab import warm; warm.serve({requests.fileno()})"]
            server = subprocess.Popen(command, pass_fds=[requests.fileno()], **options)
        try:
            yield
        finally:
            del os.environ[SOCKET]
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
            Path(address).unlink(missing_ok=True)


def serve(requests: int) -> None:
    """Import, and fork a child for each request to a listening socket, given by its number, until killed."""
    with socket.socket(fileno=requests) as server:
        signal.signal(signal.SIGCHLD, _bury)
        import_all()
        while True:
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    server.close()
                    _run(connection)


def _bury(*_: object) -> None:
    """Wait for the children that have ended, so that their time counts as this process's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def import_all() -> None:
    """What rows and kernels import, none of which starts a thread."""
    import ipykernel.kernelapp  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import papermill  # noqa: F401

    from iqa_lib.lab import notebook  # noqa: F401


def _run(connection: socket.socket) -> None:
    """In the child: become the process that was asked for, and send its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, len(STREAMS))
    request = json.loads(message)
    for own, given in zip(STREAMS, streams, strict=True):
        os.dup2(given, own)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["arguments"]
    status = 1
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(ConnectionError):
            connection.sendall(str(status).encode())
        os._exit(status)


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments:
        print("usage: python -m iqa_lib.lab.warm MODULE ARGUMENTS...", file=sys.stderr)
        return 2
    with socket.socket(socket.AF_UNIX) as connection:
        if _is_served(connection):
            request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
            with suppress(ConnectionError):
                socket.send_fds(connection, [json.dumps(request).encode()], STREAMS)
                if status := connection.recv(8):
                    return int(status)
            print(f"{arguments[0]}: the warm process, or the child that ran it, was killed", file=sys.stderr)
            return 1
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    return 0


def _is_served(connection: socket.socket) -> bool:
    """Whether a warm process answers."""
    with suppress(OSError):
        connection.connect(os.environ.get(SOCKET, ""))
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
