"""The progress bar of everything slow, and the file by which a run tells those who watch it how far it is."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator

from tqdm.auto import tqdm

from iqa_lib.files import atomic

PLACE = "IQA_LIB_PROGRESS"
"""The environment variable that names the file."""


class Progress(tqdm):
    """A bar that also leaves its name, step, steps and note in the file that `PLACE` names, at most once a second."""

    title = ""
    told = -1.0

    def __iter__(self) -> Iterator:
        for done, item in enumerate(super().__iter__(), self.n):
            if PLACE in os.environ and time.monotonic() - self.told > 1:
                self.tell(done)
            yield item

    def tell(self, done: int) -> None:
        place = {"name": self.title, "step": done, "steps": self.total, "note": getattr(self, "postfix", None) or ""}
        with atomic(os.environ[PLACE]) as temporary:
            temporary.write_text(json.dumps(place), encoding="utf-8")
        self.told = time.monotonic()


def progress(items: Iterable, name: str, **options) -> Progress:
    """A progress bar on a terminal or in a notebook, unless `TQDM_DISABLE=1` is set or it takes less than 0.5 s."""
    hidden = bool(os.environ.get("TQDM_DISABLE")) or ("ipykernel" not in sys.modules and not sys.stderr.isatty())
    bar = Progress(items, desc=name, disable=hidden, leave=False, delay=0.5, **options)
    bar.title = name
    return bar
