#!/usr/bin/env python3
"""`make scale`: what a thousand to a million callbacks a second would need, reckoned from what was measured.

    scale.py RESULTS.json

RESULTS.json is what `make bench-shared` writes. All that is assumed stands at the top; the same file gives the same
tables. First how long senders wait, by a simulation of the group commit with the measured times; then the machines.
"""

import collections
import json
import math
import random
import statistics
import sys

KEEPS = (90, 7)  # days; `store.keep`
PAGE = 8192
# One database server, and how much of it is to be used: cores, WAL, random pages read and written, disk.
CORES, WAL_MB, IOPS, DISK_TB, SHARE = 64, 1000, 200_000, 60, 0.6
REPLICA_CORES = 2  # of a machine with one callbackd
REPLICAS_MAX = 16  # on one database
# Ids are microseconds, of which each replica has one of sixteen; receipt, execution, change, delivery and attempt take one.
IDS, IDS_EACH = 1e6 / 16, 5
CHECKPOINT = 900  # seconds
CACHE_GB = 128  # of the server's memory for pages
SLOWER = 0.005  # of a commit whose disk, or standby, is farther away
BATCH = 512  # callbacks that share a commit at most


def fitted(points):
    """A commit's time in seconds: so much at least, and so much for each callback in it (least squares)."""
    batches, times = [one["batch"] for one in points], [one["commit_ms"] / 1000 for one in points]
    slope, least = statistics.linear_regression(batches, times)
    return max(least, 0), slope


def waits(rate, least, each, rest, seconds=20, seed=1):
    """One writer that takes whatever waits into a commit: the mean batch, and p50 and p99 of senders in ms."""
    chance, now, free, at, batches, took = random.Random(seed), 0.0, 0.0, 0.0, [], []
    queue = collections.deque()
    at = chance.expovariate(rate)
    while now < seconds:
        if not queue:
            queue.append(at)
            now = max(at, free)
            at += chance.expovariate(rate)
        while at <= now:
            queue.append(at)
            at += chance.expovariate(rate)
        batch = [queue.popleft() for _ in range(min(len(queue), BATCH))]
        now = free = now + least + each * len(batch)
        batches.append(len(batch))
        took += [now - begun + rest for begun in batch]
    took.sort()
    return statistics.mean(batches), 1000 * took[len(took) // 2], 1000 * took[len(took) * 99 // 100]


def images(rate, executions, entry):
    """Pages of the two indexes with random keys that a callback is the first to touch since a checkpoint."""
    pages, touched = max(1, executions * entry / PAGE / 2), rate * CHECKPOINT
    return 2 * pages * (1 - math.exp(-touched / pages)) / touched


def machines(rate, measured, days, most):
    """What so many a second need, each told to one sink, with all of so many days kept; one writer does `most`."""
    told, backlog = measured["told"], measured["backlog"]
    executions = rate * 86_400 * days
    entry = backlog["random_pages"] * PAGE / backlog["executions"]
    index_gb = executions * entry / 1e9
    first = images(rate, executions, entry)
    missed = max(0.0, 1 - CACHE_GB / max(index_gb, 1e-9))
    used = {
        "cores": rate * told["postgres_us"] / 1e6,
        "WAL": rate * (told["wal_bytes"] + first * PAGE) / 1e6,
        # Read where no cache holds it, and written at a checkpoint.
        "random pages": rate * (2 * missed + first),
        "disk": executions * told["disk_bytes"] / 1e12,
    }
    has = {"cores": CORES * SHARE, "WAL": WAL_MB * SHARE, "random pages": IOPS * SHARE, "disk": DISK_TB * SHARE}
    commands = rate * told["batch"] * told["commits_each"]
    full = max(rate * told["callbackd_us"] / 1e6 / REPLICA_CORES, rate * IDS_EACH / IDS, commands / most)
    replicas = math.ceil(full / SHARE)
    shares = {name: used[name] / has[name] for name in used} | {"callbackd": full / SHARE / REPLICAS_MAX}
    breaks = max(shares, key=shares.get)
    return {"replicas": max(2, replicas), "used": used, "first": sorted(shares, key=shares.get, reverse=True)[:2],
            "databases": max(1, math.ceil(max(shares.values())))}


def figure(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def table(head, lines):
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for each in lines:
        print(f"| {' | '.join(each)} |")
    print()


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        results = json.load(file)
    measured = results["figures"]
    points = measured["commits"]
    least, each = fitted(points)
    alone = points[0]
    rest = max(0.0, alone["p50_ms"] - alone["commit_ms"]) / 1000
    most = BATCH / (least + each * BATCH)
    print(f"A commit takes {1000 * least:.2f} ms and {1e6 * each:.0f} µs for each callback in it: so one writer ends at "
          f"{figure(most)} a second, in batches of {BATCH}.\n")
    lines = []
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        told = []
        for first in (least, least + SLOWER):
            if share * most < BATCH / (first + each * BATCH):
                batch, middle, slow = waits(share * most, first, each, rest)
                told += [figure(batch), f"{middle:.1f} ms", f"{slow:.1f} ms"]
            else:
                told += ["too many", "", ""]
        lines.append([f"{share:.0%}", figure(share * most), *told])
    longer = f"of a commit {1000 * SLOWER:.0f} ms longer"
    table(["of the most", "callbacks a second", "in a commit", "p50", "p99", longer, "p50", "p99"], lines)
    half = measured["half"]
    batch, middle, slow = waits(half["rate"], least, each, rest)
    print(f"Measured at {figure(half['rate'])} a second: p50 {half['p50_ms']:.1f} ms, p99 {half['p99_ms']:.1f} ms; "
          f"simulated {middle:.1f} and {slow:.1f} ms.\n")
    backlog = measured["backlog"]
    entry = backlog["random_pages"] * PAGE / backlog["executions"]
    pages = backlog["random_pages"] / 2
    expected = 2 * pages * (1 - math.exp(-backlog["answers"] / pages)) / backlog["answers"]
    print(f"With {figure(backlog['executions'])} executions, {backlog['images']:.2f} images of whole pages a callback were "
          f"measured after a checkpoint; reckoned are {expected:.2f}. An execution takes {entry:.0f} bytes of the indexes with "
          "random keys.\n")
    for days in KEEPS:
        lines = []
        for rate in (1_000, 10_000, 100_000, 1_000_000):
            need = machines(rate, measured, days, most)
            used = need["used"]
            lines.append([
                figure(rate), figure(need["replicas"]), figure(used["cores"]), f"{figure(used['WAL'])} MB/s",
                figure(used["random pages"]), f"{figure(used['disk'] / days)} TB", f"{figure(used['disk'])} TB", ", ".join(need["first"]),
                figure(need["databases"])])
        table(["callbacks a second", "callbackd", "PostgreSQL's cores", "WAL", "random pages a second", "disk a day",
               f"in {days} days", "first short of, then", "databases"], lines)


if __name__ == "__main__":
    main()
