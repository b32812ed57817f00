"""The SDKs wait 10 or 30 seconds between two requests for a job's state; the jobs of these programs take a few."""

import time

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(min(seconds, 1))
