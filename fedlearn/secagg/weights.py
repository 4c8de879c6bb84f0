"""How much a site weighs in a sum: its records, scaled down together where one has too many.

A ring holds weights up to `secagg.max_weight`. Cutting each off there would make all larger sites
alike, so where the largest site has more, every weight is divided by as much as its is. Weights
are for runs without privacy alone, in which sites say how many records they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def scaled_to(records: Iterable[int | None], most: int) -> int:
    """The records of the largest site, where these exceed `most`; else 0: nothing is scaled.

    `records` are those of all sites of a run; None of one that has not told them.
    """
    largest = max((count or 0 for count in records), default=0)
    return largest if largest > most else 0


def weight_in_sum(records: float, *, most: int, largest: int) -> int:
    """What a site with so many records weighs where no weight exceeds `most`.

    `largest` is what `scaled_to` has found, as everybody in a sum has heard it.

    Guarantees: the records themselves where nothing is scaled; from 0 to `most` always, whatever
    `largest` is; 0 for no records alone; otherwise `records * most / largest`, off by half at
    most, and by less than one where that is below one half.
    """
    count = int(records)
    if largest <= most:
        return min(count, most)
    nearest = (2 * count * most + largest) // (2 * largest)  # whole numbers: the same everywhere
    return min(most, max(nearest, min(count, 1)))


def scaling_notes(records: Iterable[int | None], most: int) -> Iterator[str]:
    """What there is to say at the start where weights are scaled."""
    counts = [*records]
    largest = scaled_to(counts, most)
    if not largest:
        return
    step = largest / most
    small = any(0 < (count or 0) < step / 2 for count in counts)
    beside = f"; sites with fewer than half of that count as {step:.3g}" * bool(small)
    yield (
        f"the largest site has {largest:,} training records and secagg.max_weight={most}: all "
        f"sites are weighed in steps of {step:.3g} records{beside}. A larger secagg.max_weight "
        "weighs them more finely, and may take more secagg.bits"
    )
