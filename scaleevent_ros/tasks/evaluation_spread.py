"""Differences of scores between two groups of checkpoints, with standard errors over seeds.

With n scores of a group, their mean m and their standard deviation s (of a sample: divided by
n - 1), the difference of the groups A and B is ``m_A - m_B``. Its standard error is

- ``s_d / sqrt(n)`` where both groups have the same seeds, each once: d are the differences of the
  scores of equal seeds, which share their order of data and the start of their heads. There are
  n - 1 degrees of freedom.
- ``sqrt(s_A ** 2 / n_A + s_B ** 2 / n_B)`` elsewhere: Welch, "The generalization of 'Student's'
  problem when several different population variances are involved", Biometrika 1947. Its degrees
  of freedom are Satterthwaite's (Biometrics Bulletin 1946):
  ``e ** 4 / (s_A ** 4 / (n_A ** 2 * (n_A - 1)) + s_B ** 4 / (n_B ** 2 * (n_B - 1)))`` with the
  standard error e.

A single score has no spread.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Spread(NamedTuple):
    """Scores of a group.

    Attributes:
        mean: Mean of the scores.
        std: Their standard deviation; None of a single score.
        seeds: Number of scores.
    """

    mean: float
    std: float | None
    seeds: int


class Difference(NamedTuple):
    """Difference of two groups' scores.

    Attributes:
        mean: The difference of the means.
        standard_error: Standard error of the difference; None if a group has a single score.
        degrees_of_freedom: Degrees of freedom of the standard error; None without one or without
            any spread.
        paired: Scores of equal seeds were compared.
    """

    mean: float
    standard_error: float | None
    degrees_of_freedom: float | None
    paired: bool


def spread(scores: Sequence[float]) -> Spread:
    """Sum up the scores of a group, one or more."""
    return Spread(fmean(scores), stdev(scores) if len(scores) > 1 else None, len(scores))


def pair_seeds(
    first: Sequence[int | None], second: Sequence[int | None]
) -> list[tuple[int, int]] | None:
    """Find places of equal seeds in two groups.

    Args:
        first: The seed of each of a group; None where it is not known.
        second: Those of the other group.

    Returns:
        Places in both, in ascending order of seeds; None unless both have the same seeds, each
        once.
    """
    known = [seed for seed in first if seed is not None]
    if len(set(known)) < len(first) or sorted(known) != sorted(s for s in second if s is not None):
        return None
    if len(first) != len(second):
        return None
    return [(first.index(seed), second.index(seed)) for seed in sorted(known)]


def difference(
    first: Sequence[float],
    second: Sequence[float],
    pairs: Sequence[tuple[int, int]] | None,
) -> Difference:
    """Compare two groups, as told above.

    Args:
        first: Scores of the group that is looked at.
        second: Scores of the group that it is compared with.
        pairs: Pairs of scores from `pair_seeds`.
    """
    mean = fmean(first) - fmean(second)
    if pairs is not None:
        of_seeds = spread([first[i] - second[j] for i, j in pairs])
        if of_seeds.std is None:
            return Difference(mean, None, None, paired=True)
        error = of_seeds.std / math.sqrt(of_seeds.seeds)
        return Difference(mean, error, of_seeds.seeds - 1, paired=True)
    a, b = spread(first), spread(second)
    if a.std is None or b.std is None:
        return Difference(mean, None, None, paired=False)
    parts = [each.std**2 / each.seeds for each in (a, b) if each.std is not None]
    weights = sum(part**2 / (each.seeds - 1) for part, each in zip(parts, (a, b), strict=True))
    freedom = sum(parts) ** 2 / weights if weights else None
    return Difference(mean, math.sqrt(sum(parts)), freedom, paired=False)
