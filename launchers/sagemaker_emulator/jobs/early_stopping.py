"""Early stopping of a tuning job's training jobs. Lower objectives are better here."""

import math
import statistics
from collections.abc import Mapping, Sequence

Series = Sequence[float]  # a job's objective for each epoch


def worse_than_median(series: Series, earlier: Sequence[Series]) -> bool:
    """AWS's rule of TrainingJobEarlyStoppingType=Auto.

    A job stops when its objective is worse than the median of the earlier jobs' running averages up to the same epoch.
    https://docs.aws.amazon.com/sagemaker/latest/dg/automatic-model-tuning-early-stopping.html

    Args:
        series: of the job.
        earlier: of jobs that have ended; shorter ones are ignored.
    """
    epoch = len(series)
    averages = [statistics.fmean(s[:epoch]) for s in earlier if len(s) >= epoch]
    return bool(averages) and series[-1] > statistics.median(averages)


def out_of_the_third(name: str, series: Mapping[str, Series], least: int, most: int) -> bool:
    """Asynchronous Hyperband: after 1, 3, 9, ... times the least epochs, the best third continues.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020, algorithm 2.

    Args:
        name: of the job that has just finished an epoch.
        series: of all jobs by name, including running ones.
        least: MinResource, epochs.
        most: MaxResource, epochs; a job stops after them.
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
