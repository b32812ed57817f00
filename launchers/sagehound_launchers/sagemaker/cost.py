"""What a job costs at most, said before it starts; a price that is not known is not made up."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

PAGE = "https://aws.amazon.com/sagemaker/ai/pricing/"


@dataclass(frozen=True)
class Price:
    """A list price."""

    dollars: float  # an hour of one instance
    region: str  # that it was stated for
    date: str  # when, as far as the reference says


@dataclass(frozen=True)
class Estimate:
    """What jobs cost if each runs for as long as it may; without storage, requests and transfer."""

    instance: str
    count: int  # instances of one job
    hours: float  # of one job, at most
    jobs: int
    region: str  # where they run
    spot: bool
    price: Price | None  # None where it is not known

    @property
    def dollars(self) -> float | None:
        """Of all jobs at most, at the list price; None where it is not known."""
        return None if self.price is None else self.price.dollars * self.count * self.hours * self.jobs

    def __str__(self) -> str:
        what = f"{self.instance} x {self.count}"
        long = f"{self.hours:g} h"
        if self.jobs > 1:
            what, long = f"{self.jobs} jobs of {what}", f"{long} each"
        if self.price is None or self.dollars is None:
            return f"{what} for at most {long}: no price is known here for {self.instance} in {self.region}, see {PAGE}"
        each = " each" if self.count > 1 else ""
        hourly = f"{self.price.dollars:.4f}".rstrip("0")
        listed = f"{self.price.region} list price of {self.price.date}"
        if self.price.region != self.region:
            listed += f", {self.region} may differ"
        spot = "; spot instances cost less, up to 90 % as AWS says" if self.spot else ""
        return f"{what}: ${hourly} an hour{each} ({listed}), at most ${self.dollars:,.2f} for {long}{spot}"


def estimate(
    instance: str, count: int, hours_at_most: float, region: str, spot: bool = False, jobs: int = 1
) -> Estimate:
    """The most that jobs can cost, by the list prices of prices.yaml.

    Args:
        instance: as SageMaker names it: ml.g4dn.xlarge.
        count: instances of one job.
        hours_at_most: that one job may run.
        region: where; another region's price is taken, and said to be one, where this region's is not known.
        spot: whether spot instances are asked for, whose price nobody knows beforehand.
        jobs: how many.
    """
    return Estimate(instance, count, hours_at_most, jobs, region, spot, price(instance, region))


def price(instance: str, region: str) -> Price | None:
    """The list price of an instance in a region, or in the first other region that it is known for."""
    if region.startswith(("cn-", "us-gov-", "us-iso")):  # prices, and in China the currency, of their own
        return None
    known = _known()
    for place in [region, *known]:
        for group in known.get(place, []):
            if instance in group["prices"]:
                return Price(float(group["prices"][instance]), place, str(group["date"]))
    return None


@cache
def _known() -> dict[str, list[dict[str, Any]]]:
    """Groups of prices by region."""
    found = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("prices.yaml")))
    assert isinstance(found, dict)
    return {str(region): groups for region, groups in found.items()}
