# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""How fast regions are read at random: our own store beside the LMDB of 12-in-1, in one run.

1. Write the same records (36 regions of 2048 fp32 numbers) to both.
2. Read each in a process of its own, all records once, in random order.
3. Print records a second, and how much memory the process took above its start. Pages of mapped files count in
   "resident"; "own" leaves them out.

python examples/region_store_benchmark.py --records 2000
"""

import argparse
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import lmdb
import numpy as np

from modeling_vilbert.regions import Regions, RegionWriter, open_regions


REGIONS, WIDTH = 36, 2048
# Records repeat so many arrays, so that making them does not take longer than writing them.
DISTINCT = 64


def make_records(count: int):
    generator = np.random.default_rng(0)
    features = generator.random((DISTINCT, REGIONS, WIDTH), np.float32)
    corners = generator.uniform(0, 200, (DISTINCT, REGIONS, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 100], -1)
    for number in range(count):
        one = number % DISTINCT
        yield Regions(boxes[one], features[one], (640, 480), image_id=number, source="random numbers")


def write(count: int, folder: Path):
    environment = lmdb.open(str(folder / "lmdb"), map_size=2**40, sync=False)
    with RegionWriter(folder / "table") as writer:
        for regions in make_records(count):
            writer.write(regions)
            row = {
                "image_id": regions.image_id,
                "image_h": 480,
                "image_w": 640,
                "num_boxes": len(regions),
                "boxes": regions.boxes,
                "features": regions.features,
            }
            with environment.begin(write=True) as transaction:
                transaction.put(str(regions.image_id).encode(), pickle.dumps(row))
    with environment.begin(write=True) as transaction:
        transaction.put(b"keys", pickle.dumps([str(number).encode() for number in range(count)]))
    environment.sync(True)
    environment.close()


def memory() -> np.ndarray:
    """Resident megabytes of this process, and those of them that are no mapped files."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return np.array([int(lines[name].split()[0]) for name in ("VmRSS", "RssAnon")]) / 1024


def read(path: Path, seconds: float):
    store = open_regions(path)
    names = np.random.default_rng(1).permutation(len(store)).tolist()
    store[0]
    start = most = memory()
    done = threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.02):
            most = np.maximum(most, memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for name in names:
            store[name]
        count += len(names)
    elapsed = time.perf_counter() - began
    done.set()
    watcher.join()
    resident, own = np.maximum(most, memory()) - start
    print(f"{store.format:<12} {count / elapsed:>14,.0f} {resident:>14,.0f} MB {own:>10,.0f} MB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000, help="20,000 need 12 GB of disk; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3, help="read for at least so long; default: %(default)s")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read, options.seconds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write(options.records, Path(folder))
            print(f"{options.records:,} records of {REGIONS} x {WIDTH} float32, read at random by one process")
            print(f"{'store':<12} {'records/s':>14} {'resident':>17} {'own':>13}   above the start", flush=True)
            for name in ("table", "lmdb", "table", "lmdb"):
                command = [sys.executable, __file__, "--read", f"{folder}/{name}", "--seconds", str(options.seconds)]
                subprocess.run(command, check=True)
