"""Checks of options, with one wording of their errors."""

from collections.abc import Iterable


def check_choice(allowed: Iterable[object], *, error: type[ValueError] = ValueError, **options: object) -> None:
    """Raise `error`, naming the option, if a value is not one of those allowed."""
    allowed = tuple(allowed)
    for name, value in options.items():
        if value not in allowed:
            raise error(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def check_at_least(least: float, **numbers: float) -> None:
    """Raise ValueError, naming the number, if one is below `least` or NaN."""
    for name, value in numbers.items():
        if not value >= least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
