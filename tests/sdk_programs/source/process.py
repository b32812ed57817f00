"""A processing script: counts files."""

import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("--count", type=int)
parser.parse_args()
with open("/opt/ml/processing/output/count.txt", "w") as file:
    file.write(str(len(os.listdir("/opt/ml/processing/photos"))))
