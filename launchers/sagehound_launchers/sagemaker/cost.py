"""Estimates the most that jobs can cost, from list prices."""

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
    region: str  # region of the price
    date: str  # date of the price


@dataclass(frozen=True)
class Estimate:
    """The cost of jobs that run to their time limit, without storage, requests and transfer."""

    instance: str
    count: int  # instances of one job
    hours: float  # time limit of one job
    jobs: int
    region: str  # region of the jobs
    spot: bool
    price: Price | None  # None if unknown

    @property
    def dollars(self) -> float | None:
        """The cost of all jobs in dollars; None if the price is unknown."""
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
        hours_at_most: time limit of one job.
        region: of the jobs; if its price is unknown, another region's is used and named.
        spot: whether jobs use spot instances, whose price is not known in advance.
        jobs: their number.
    """
    return Estimate(instance, count, hours_at_most, jobs, region, spot, price(instance, region))


def price(instance: str, region: str) -> Price | None:
    """The list price of an instance in a region, or in another region with a known price."""
    if region.startswith(("cn-", "us-gov-", "us-iso")):  # China has other prices and another currency
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
    prices = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("prices.yaml")))
    assert isinstance(prices, dict)
    return {str(region): groups for region, groups in prices.items()}
