"""Five full-reference image quality assessment papers: networks, losses, data, and runs that reproduce tables."""

__version__ = "0.1.0"
