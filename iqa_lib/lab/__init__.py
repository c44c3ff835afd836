"""What runs experiments: the only part that knows `outputs/`, `params/` and `notebooks/`."""
