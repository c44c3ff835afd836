"""Five full-reference image quality assessment papers: networks, losses, data, and runs that reproduce tables."""

import os

# Threads that wait by spinning slow a busy machine down tenfold; read once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
