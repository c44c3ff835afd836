"""The progress bar of everything that takes long."""

import os
import sys
from collections.abc import Iterable

from tqdm.auto import tqdm


def progress(items: Iterable, name: str, **options) -> tqdm:
    """A progress bar on a terminal or in a notebook; silence elsewhere, and wherever `TQDM_DISABLE=1` is set.

    What is done within half a second shows none.
    """
    hidden = bool(os.environ.get("TQDM_DISABLE")) or ("ipykernel" not in sys.modules and not sys.stderr.isatty())
    return tqdm(items, desc=name, disable=hidden, leave=False, delay=0.5, **options)
