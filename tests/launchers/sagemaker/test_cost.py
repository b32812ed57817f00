"""What a job costs at most, and how that is said."""

import botocore.session
import pytest

from sagehound_launchers.sagemaker import cost
from sagehound_launchers.sagemaker.cost import estimate


def test_a_job_on_one_instance() -> None:
    found = estimate("ml.g4dn.xlarge", 1, 24, "us-east-1")
    assert found.dollars == pytest.approx(0.7364 * 24)
    assert str(found) == (
        "ml.g4dn.xlarge x 1: $0.7364 an hour (us-east-1 list price of 2026-05), at most $17.67 for 24 h"
    )


def test_jobs_and_instances_multiply() -> None:
    found = estimate("ml.g5.2xlarge", 2, 1.5, "us-east-1", jobs=20)
    assert found.dollars == pytest.approx(1.515 * 2 * 1.5 * 20)
    assert str(found) == (
        "20 jobs of ml.g5.2xlarge x 2: $1.515 an hour each (us-east-1 list price of 2026-08), "
        "at most $90.90 for 1.5 h each"
    )


def test_thousands_are_easy_to_read() -> None:
    assert "at most $135,129.60 for 24 h each" in str(estimate("ml.p3.16xlarge", 4, 24, "us-east-1", jobs=50))


def test_spot_is_no_promise() -> None:
    on_demand, spot = (estimate("ml.m5.large", 1, 1, "us-east-1", spot=s) for s in (False, True))
    assert spot.dollars == on_demand.dollars
    assert str(spot) == f"{on_demand}; spot instances cost less, up to 90 % as AWS says"


def test_another_regions_price_is_called_so() -> None:
    found = str(estimate("ml.m5.large", 1, 1, "eu-west-1"))
    assert "$0.115 an hour (us-east-1 list price of 2026-08, eu-west-1 may differ)" in found
    assert "(us-west-2 list price of 2026, us-east-1 may differ)" in str(estimate("ml.g6.xlarge", 1, 1, "us-east-1"))
    assert "(us-west-2 list price of 2026)" in str(estimate("ml.g5.xlarge", 1, 1, "us-west-2")), "its own comes first"


@pytest.mark.parametrize(
    ("instance", "region"), [("ml.x9.huge", "us-east-1"), ("ml.m5.large", "cn-north-1"), ("local", "us-west-2")]
)
def test_a_price_that_is_not_known_is_not_made_up(instance: str, region: str) -> None:
    found = estimate(instance, 1, 24, region, spot=True)
    assert found.dollars is None
    assert str(found) == (
        f"{instance} x 1 for at most 24 h: no price is known here for {instance} in {region}, see {cost.PAGE}"
    )


def test_every_price_is_of_an_instance_that_sagemaker_trains_and_serves_on() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    named = [set(model.shape_for(shape).enum) for shape in ("TrainingInstanceType", "ProductionVariantInstanceType")]
    groups = [group for region in cost._known().values() for group in region]
    assert all(group["source"] and group["date"] for group in groups)
    prices = {name: value for group in groups for name, value in group["prices"].items()}
    assert len(prices) > 25
    assert [name for name in prices if not all(name in those for those in named)] == []
    assert all(0.05 < value < 50 for value in prices.values())


def test_a_larger_instance_of_a_family_costs_more() -> None:
    for family in ("ml.m5", "ml.c5", "ml.p3"):
        sizes = ["large", "xlarge", *(f"{n}xlarge" for n in (2, 4, 8, 9, 12, 16, 24))]
        found = [p.dollars for s in sizes if (p := cost.price(f"{family}.{s}", "us-east-1"))]
        assert len(found) > 2
        assert found == sorted(found), family
