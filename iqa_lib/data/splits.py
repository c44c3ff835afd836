"""Splits by reference, so that no image's content is on two sides."""

import random
from collections.abc import Iterable
from itertools import accumulate, pairwise


def by_reference(reference_ids: Iterable[str], fractions: dict[str, float], seed: int = 0) -> dict[str, list[str]]:
    """Deal the references to the sides of a split: sorted ids for each side, every id on exactly one.

    The distinct ids are sorted, then shuffled by `random.Random(seed)`; nothing else has an influence. `fractions` is
    the share of each side, such as `{"train": 0.8, "test": 0.2}`; ValueError if they do not sum to 1, or if a side with
    a share gets no reference.
    """
    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) < 0:
        raise ValueError(f"split fractions: got {fractions}, expected shares of at least 0 that sum to 1")
    ids = sorted(set(reference_ids))
    random.Random(seed).shuffle(ids)
    ends = [round(share * len(ids)) for share in accumulate(fractions.values())]
    sides = {side: sorted(ids[start:end]) for side, (start, end) in zip(fractions, pairwise([0, *ends]), strict=True)}
    for side, fraction in fractions.items():
        if fraction and not sides[side]:
            raise ValueError(f"references: got {len(ids)}, expected more for the split {fractions}: {side!r} gets none")
    return sides
