"""Clients that send photos to a server, one after the other each, and how long every answer took.

python benchmarks/load.py HOST:PORT CLIENTS REQUESTS PHOTO...

Prints {"seconds": of all, "latencies": [seconds of each], "statuses": {status: how many}}.
"""

import http.client
import itertools
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path


def main() -> None:
    """Send and measure."""
    address, clients, requests, *photos = sys.argv[1:]
    bodies = [Path(p).read_bytes() for p in photos]
    left = itertools.count()
    latencies: list[float] = []
    statuses: Counter[int] = Counter()

    def client() -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        while (i := next(left)) < int(requests):
            start = time.perf_counter()
            connection.request("POST", "/invocations", bodies[i % len(bodies)], {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            response.read()
            latencies.append(time.perf_counter() - start)
            statuses[response.status] += 1

    threads = [threading.Thread(target=client) for _ in range(int(clients))]
    start = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(json.dumps({"seconds": time.perf_counter() - start, "latencies": latencies, "statuses": statuses}))


if __name__ == "__main__":
    main()
