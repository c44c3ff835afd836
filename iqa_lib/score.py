"""One thing, two uses: `iqa_lib.score(reference, distorted, metric)`, and the command `python -m iqa_lib.score`.

This module is what `iqa_lib.score` names, however it is imported, and it can be called.
"""

import sys
from importlib import import_module
from types import ModuleType


class CallableModule(ModuleType):
    """A module that scores when it is called, and is pickled by its name."""

    def __call__(self, reference, distorted, *metric, **loading):
        """See `iqa_lib.lab.scoring.score`."""
        return import_module("iqa_lib.lab.scoring").score(reference, distorted, *metric, **loading)

    def __reduce__(self):
        return import_module, (self.__name__,)


if __name__ == "__main__":
    from iqa_lib.lab.command import main

    sys.exit(main())

sys.modules[__name__].__class__ = CallableModule
