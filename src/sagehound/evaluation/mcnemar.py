"""McNemar's test: do two models differ on the photos that both predicted?"""

from collections.abc import Iterable, Mapping


def mcnemar(
    a: Iterable[Mapping[str, str]], b: Iterable[Mapping[str, str]], *, better: bool = False
) -> tuple[int, int, int, float]:
    """Compare the predictions of two models for the photos that both have with the same label.

    Returns the number of photos, those that only ``a`` and only ``b`` predict correctly, and the p value of the exact
    test of McNemar (1947): how often a difference as large occurs if both are equally good.

    Args:
        a: rows with file, label and prediction, each photo once.
        b: those of the other model.
        better: whether the test is one-sided: how often ``a`` is ahead by as much.
    """
    from scipy.stats import binomtest  # takes a second to import

    first, second = (
        {row["file"]: (row["label"], row["prediction"] == row["label"]) for row in rows} for rows in (a, b)
    )
    shared = [file for file in first if file in second and first[file][0] == second[file][0]]
    only_a = sum(first[file][1] and not second[file][1] for file in shared)
    only_b = sum(second[file][1] and not first[file][1] for file in shared)
    if not only_a + only_b:
        return len(shared), 0, 0, 1.0
    p = binomtest(only_a, only_a + only_b, alternative="greater" if better else "two-sided").pvalue
    return len(shared), only_a, only_b, float(p)
