"""Two doors: `iqa_lib.score(reference, distorted, metric)` is a function, `python -m iqa_lib.score` a command."""

import sys

import iqa_lib

if __name__ == "__main__":
    from iqa_lib.lab.command import main

    sys.exit(main())

sys.modules[__name__] = iqa_lib.score  # so that `import iqa_lib.score` leaves the function under this name
