"""The progress bar of everything slow."""

import os
import sys
from collections.abc import Iterable

from tqdm.auto import tqdm


def progress(items: Iterable, name: str, **options) -> tqdm:
    """A progress bar on a terminal or in a notebook, unless `TQDM_DISABLE=1` is set or it takes less than 0.5 s."""
    hidden = bool(os.environ.get("TQDM_DISABLE")) or ("ipykernel" not in sys.modules and not sys.stderr.isatty())
    return tqdm(items, desc=name, disable=hidden, leave=False, delay=0.5, **options)
