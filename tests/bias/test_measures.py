"""The measures of bias against numbers of AWS's own library, and of publications."""

import numpy as np
import pytest

from sagehound.bias import measures
from sagehound.bias.analysis import analyse
from sagehound.bias.class_scores import class_scores
from sagehound.bias.photo_rows import PhotoRows

# photos by camera, label and prediction
COUNTS = {
    "x": {"aa": 14, "ab": 2, "ac": 1, "ba": 3, "bb": 9, "bc": 2, "ca": 1, "cb": 2, "cc": 6},
    "y": {"aa": 4, "ab": 3, "ac": 1, "ba": 1, "bb": 12, "bc": 2, "ca": 2, "cb": 4, "cc": 11},
}
# the numbers of smclarify 0.5 (AWS's library) for camera y, and for the class a against the rest: its metric functions,
# called with bool series and the labels as they are. CDDPL: of right predictions within each label; CDDL: of the label
# a within each prediction
SMCLARIFY = {
    "CI": 0.0,
    "DPL": 0.22499999999999998,
    "KL": 0.15310803847752927,
    "JS": 0.03656440779308881,
    "LP": 0.30207614933986426,
    "TVD": 0.22499999999999998,
    "KS": 0.22499999999999998,
    "AD": 0.0,
    "DAR": 0.2063492063492064,
    "DCA": -0.19841269841269837,
    "DCR": -0.07575757575757569,
    "DI": 0.38888888888888884,
    "DPPL": 0.275,
    "DRR": 0.015151515151515138,
    "RD": 0.32352941176470584,
    "SD": 0.08016304347826086,
    "TE": 0.5833333333333333,
}
CDDPL, CDDL = 0.04429417600373481, 0.0957473544973545


def photo_rows() -> PhotoRows:
    """The photos of COUNTS, each in train and test."""
    rows, camera = [], []
    for name, counts in COUNTS.items():
        for (label, prediction), number in counts.items():
            for split in ("train", "test"):
                rows += [(f"{len(rows)}-{i}", split, label, prediction) for i in range(number)]
                camera += [name] * number
    return PhotoRows.make(rows, {"camera": camera})


def test_every_measure_is_that_of_the_library_of_aws() -> None:
    photos = photo_rows()
    found = analyse(
        photos.with_facets({"camera": photos.facets["camera"], "guess": photos.predictions}), "test", "guess"
    )
    of_y = {(r.measure.name, r.outcome): r.value for r in found.rows if (r.facet, r.group) == ("camera", "y")}
    for name, value in SMCLARIFY.items():
        outcome = "(any class)" if name in ("CI", "KL", "JS", "LP", "TVD", "KS") else "a"
        assert of_y[name, outcome] == pytest.approx(value), name
    assert of_y["CDDPL", "(recognised)"] == pytest.approx(CDDPL)
    assert of_y["CDDL", "a"] == pytest.approx(CDDL)


def test_a_measure_without_photos_is_not_defined_and_says_so() -> None:
    rows = [("1", "test", "a", "a"), ("2", "test", "b", "b"), ("3", "test", "b", "a")]
    found = analyse(PhotoRows.make(rows, {"camera": ["x", "x", "y"]}), "test")
    by_name = {(r.measure.name, r.group): r for r in found.rows if r.outcome == "a" and r.facet == "camera"}
    assert by_name["RD", "y"].value is None  # no photo of a with camera y
    assert by_name["RD", "y"].meaning.startswith("Not defined")
    assert by_name["RD", "y"].verdict == "too few photos"
    assert by_name["TE", "x"].value is None  # nothing was mistaken for a


def test_a_missing_class_is_infinitely_far_by_kl_and_not_by_the_others() -> None:
    a, d = np.array([5, 5, 0]), np.array([0, 5, 5])
    values = {m.name: m.value(a, d) for m in measures.DISTANCES}
    assert values["KL"] == float("inf")
    assert values["JS"] == pytest.approx(np.log(2) / 2)
    assert values["TVD"] == values["KS"] == 0.5


def test_strata_with_one_outcome_do_not_count_as_a_bias() -> None:
    group = np.array([True, False, True, False])
    strata = np.array(["s", "s", "t", "t"], object)
    fair = np.array([True, True, True, False])  # s: all accepted
    assert measures.conditional_disparity(fair, group, strata) == pytest.approx(-1)  # of t alone
    assert measures.conditional_disparity(np.array([True] * 4), group, strata) is None


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """Newcombe (1998), table II, contrast (a), method 10: 56/70 - 48/80."""
    assert measures.newcombe((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_intervals_of_reversed_differences_hold_the_value() -> None:
    for row in analyse(photo_rows(), "test").rows:
        if row.interval and row.value is not None:
            assert row.interval[0] <= row.value <= row.interval[1], row


def test_classes_have_scores_with_intervals() -> None:
    photos = photo_rows()
    scores = {one.name: one for one in class_scores(photos.of_split("train"), photos.of_split("test"))}
    a = scores["a"]
    assert (a.trained, a.photos, a.counts.tp, a.counts.fp, a.counts.fn) == (25, 25, 18, 7, 7)
    assert a.precision == a.recall == a.f1 == pytest.approx(18 / 25)
    assert a.recall_interval == pytest.approx((0.5242, 0.8572), abs=5e-5)
    low, high = a.f1_interval  # Wilson of 18 of 32, then 2 x / (1 + x)
    assert (low, high) == pytest.approx((0.5645, 0.8361), abs=5e-5)
