"""Checks of options, in one voice: what came, and what is expected."""

from collections.abc import Iterable


def check_choice(allowed: Iterable[object], *, error: type[ValueError] = ValueError, **options: object) -> None:
    """Raise `error` for the first option whose value is not among those allowed; its name is in the message."""
    allowed = tuple(allowed)
    for name, value in options.items():
        if value not in allowed:
            raise error(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def check_at_least(least: float, **numbers: float) -> None:
    """Raise ValueError for the first number that is below `least`, or NaN; its name is in the message."""
    for name, value in numbers.items():
        if not value >= least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
