"""Which pieces are one work: told by what they are called and by their melodies."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

Grams = frozenset[tuple[int, ...]]

LENGTH = 8  #: intervals of an n-gram
#: Share of the shorter melody's n-grams from which on two pieces count as one work. Of 454 pieces, chorales by one
#: name share 0.3 and more, different ones hardly any.
SAME = 0.15
_FEWEST = 3  # n-grams in common: fewer happen by chance


def melody_grams(melody: Sequence[int]) -> Grams:
    """The runs of eight intervals in a melody, MIDI numbers beat by beat.

    Intervals are the same in every key, so a transposed piece has the same runs; and what a harmonisation puts between
    two beats changes none.
    """
    steps = [int(after) - int(before) for before, after in pairwise(melody)]
    return frozenset(tuple(steps[i:i + LENGTH]) for i in range(len(steps) - LENGTH + 1))


def _shared(n_grams: int) -> float:
    """How many n-grams two pieces must have in common, of which the shorter has ``n_grams``."""
    return min(n_grams, max(_FEWEST, SAME * n_grams))


def group_works(works: Sequence[str], grams: Sequence[Grams]) -> list[list[int]]:
    """Pieces that are one work by name or by melody, and those that are one with these, and so on.

    Args:
        works: (n) names.
        grams: (n) of :func:`melody_grams`.

    Returns:
        Lists of positions, ascending; in the order of their first ones.
    """
    root = list(range(len(works)))

    def find(piece: int) -> int:
        while root[piece] != piece:
            root[piece] = root[root[piece]]
            piece = root[piece]
        return piece

    first_of: dict[str, int] = {}
    holders: dict[tuple[int, ...], list[int]] = {}
    for piece, work in enumerate(works):
        same = {first_of.setdefault(work, piece)}
        common = Counter(other for gram in grams[piece] for other in holders.get(gram, ()))
        same |= {other for other, count in common.items()
                 if count >= _shared(min(len(grams[piece]), len(grams[other])))}
        for other in same:
            root[max(find(piece), find(other))] = min(find(piece), find(other))
        for gram in grams[piece]:
            holders.setdefault(gram, []).append(piece)
    groups: dict[int, list[int]] = {}
    for piece in range(len(works)):
        groups.setdefault(find(piece), []).append(piece)
    return list(groups.values())
