"""Which machines carry a wanted load, from a load test of a server on this machine. An estimate, to be tested there."""

import math
from dataclasses import dataclass

from sagehound_launchers.sagemaker import cost

# vCPUs and GiB of memory of a size, and the memory of a family for each vCPU: AWS's pages of EC2 instance types
_VCPUS = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "9xlarge": 36, "12xlarge": 48, "24xlarge": 96}
_GIB = {"ml.m5": 4, "ml.c5": 2}
_FULL = 0.7  # share of a machine's capacity that is planned, so that waiting times stay short at peaks
_SYSTEM = 0.5  # GiB that the container's system needs beside the server


@dataclass(frozen=True)
class Advice:
    """The machines that a load needs, and their price."""

    instance: str
    count: int
    dollars: float  # an hour, of all
    region: str  # of the list price

    def __str__(self) -> str:
        return f"{self.instance} x {self.count}, ${self.dollars:g} an hour ({self.region} list price)"


def cheapest(rate: float, cores: int, memory: float, wanted: float, region: str) -> Advice | None:
    """The cheapest machines that carry a load, if one vCPU of AWS does as much as one core here.

    Args:
        rate: photos a second, measured with a server that had all cores.
        cores: of this machine.
        memory: GiB that the server used.
        wanted: photos a second.
        region: for the prices.

    Returns:
        None if the memory of no listed machine suffices.
    """
    known = []
    for family, gib in _GIB.items():
        for size, vcpus in _VCPUS.items():
            instance = f"{family}.{size}"
            price = cost.price(instance, region)
            if price is None or gib * vcpus < memory + _SYSTEM:
                continue
            count = math.ceil(wanted / (_FULL * rate / cores * vcpus))
            known.append(Advice(instance, count, round(price.dollars * count, 4), price.region))
    return min(known, key=lambda advice: (advice.dollars, advice.count), default=None)
