"""Which of a tuning job's training jobs are not worth their time; less is better everywhere here."""

import math
import statistics
from collections.abc import Mapping, Sequence

Series = Sequence[float]  # a job's objective, epoch by epoch


def worse_than_median(series: Series, earlier: Sequence[Series]) -> bool:
    """AWS's rule of TrainingJobEarlyStoppingType=Auto.

    A job stops when its objective is worse than the median of the earlier jobs' running averages up to the same epoch.
    https://docs.aws.amazon.com/sagemaker/latest/dg/automatic-model-tuning-early-stopping.html

    Args:
        series: the job's.
        earlier: those of jobs that have ended; those that did not come this far say nothing.
    """
    epoch = len(series)
    averages = [statistics.fmean(s[:epoch]) for s in earlier if len(s) >= epoch]
    return bool(averages) and series[-1] > statistics.median(averages)


def out_of_the_third(name: str, series: Mapping[str, Series], least: int, most: int) -> bool:
    """Hyperband's rule, in its asynchronous form: at 1, 3, 9, ... times the least epochs, the best third goes on.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020, algorithm 2.

    Args:
        name: of the job that has just come to an epoch's end.
        series: of all jobs by name, those that run among them.
        least: MinResource, epochs.
        most: MaxResource, epochs; a job that has had them stops.
    """
    epoch = len(series[name])
    if epoch >= most:
        return True
    rung = least
    while rung < epoch:
        rung *= 3
    if rung != epoch:
        return False
    reached = sorted(s[epoch - 1] for s in series.values() if len(s) >= epoch)
    return series[name][-1] > reached[math.ceil(len(reached) / 3) - 1]
