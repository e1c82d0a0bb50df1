#!/usr/bin/env python3
"""`make bench`: one table of what callbackd does beside what bounds it, in one run on one machine.

    run.py [--quick] [--only NAME…] [--json FILE] [--picture FILE]

Machines differ, and lend their time to neighbours; so what is compared runs in turn, in rounds, and the table has the
median of the rounds' ratios with the least and the most. --quick is for seeing that everything works: its rounds are short
and its large store is a tenth of the ten million executions (EXECUTIONS, WAITING). What was measured is written to
target/bench.json; --json and --picture write it elsewhere, too, and draw it. A reach that is missed is said, and is no
failure; what could not be measured is one.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import harness
import instructions
import picture
from harness import FOLDER, ROOT, TARGET, Answer, Bench, Daemon, ask, median, remove, say, size, until

ROUNDS = 3
rows = []


def row(name, measure, values, unit="", at_least=None, at_most=None, note=""):
    """A line of the table: the rounds' figures, and the reach, where there is one."""
    values = [float(value) for value in values]
    figure = median(values)
    reached = None
    if at_least is not None:
        reached = figure >= at_least
    if at_most is not None:
        reached = figure <= at_most
    rows.append({
        "name": name, "measure": measure, "unit": unit, "median": figure, "min": min(values), "max": max(values),
        "values": values, "at_least": at_least, "at_most": at_most, "reached": reached, "note": note})
    say(f"  {line(rows[-1])}")


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def line(row):
    spread = f"{number(row['min'])}–{number(row['max'])}" if len(row["values"]) > 1 else ""
    reach = ""
    if row["reached"] is not None:
        word = "at least" if row["at_least"] is not None else "at most"
        limit = row["at_least"] if row["at_least"] is not None else row["at_most"]
        reach = f"{word} {limit:g}" + ("" if row["reached"] else "  MISSED")
    figure = f"{number(row['median'])} {row['unit']}".strip()
    return f"{row['measure']:<66} {figure:>13}  {spread:>15}  {reach}".rstrip() + (f"  ({row['note']})" if row["note"] else "")


def readme():
    """README's first configuration: two sources, two sinks that speak TLS, routes with jq and a link."""
    text = (ROOT / "README.md").read_text().split("```toml\n", 1)[1].split("```", 1)[0]
    (FOLDER / "readme.toml").write_text(text)
    credentials = FOLDER / "credentials"
    credentials.mkdir(exist_ok=True)
    for name in re.findall(r'credential = "([^"]+)"', text):
        (credentials / name).touch(0o600)
        (credentials / name).write_text("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz")
    return {"config": FOLDER / "readme.toml", "environment": {"CREDENTIALS_DIRECTORY": str(credentials)}}


# The least that it can cost to answer when a body is on disk, one thing more each time.
LEAST = {"appended": {}, "rows": {"rows": True}, "read": {"rows": True, "read": True}}
LEAST_SAYS = {
    "appended": "least: appended and synced", "rows": "least: two rows of SQLite", "read": "least: XML read, two rows of SQLite"}


class Measures:
    """Each method is a part of the table."""

    def __init__(self, paths, quick):
        self.paths = paths
        self.bench = Bench(paths)
        self.quick = quick
        self.seconds = 3 if quick else 6
        self.drains = []

    def daemon(self, name, **more):
        return Daemon(FOLDER / f"{name}.db", **more)

    @contextlib.contextmanager
    def least(self, **how):
        """A server that keeps each body before it answers, and no more."""
        kept = FOLDER / "kept"
        with Answer(self.bench, keep=kept, **how) as answer:
            yield answer
        remove(kept)

    def loaded(self, daemon, **load):
        """Sends to the daemon, and asks its store whether it has all that was acknowledged."""
        before = ask(daemon.store, "SELECT count(*) FROM executions")
        figures = self.bench.send(daemon.url, **load)
        held = ask(daemon.store, "SELECT count(*) FROM executions") - before
        if held != figures["answers"]:
            sys.exit(f"{figures['answers']} acknowledged, {held} kept")
        return figures

    def ingest(self):
        """Durable callbacks a second over bare hyper's and over SQLite's own; the longest answers; disk."""
        over_hyper, over_sqlite, tails, latencies, disk = {64: [], 256: []}, [], [], {}, []
        rates, bare_rates, memory = {64: [], 256: []}, {64: [], 256: []}, []
        least = {(name, connections): [] for name in LEAST for connections in (64, 256)}
        least_sqlite, least_tails = [], []
        for round in range(ROUNDS):
            for connections in (64, 256):
                with Answer(self.bench) as answer:
                    bare = self.bench.send(answer.url, connections=connections, seconds=self.seconds)
                for name, how in LEAST.items():
                    with self.least(**how) as answer:
                        floor = self.bench.send(answer.url, connections=connections, seconds=self.seconds)
                    least[name, connections].append(floor["rate"] / bare["rate"])
                    if (name, connections) == ("appended", 64):
                        appended = floor["rate"]
                    if (name, connections) == ("rows", 64):
                        least_tails.append(floor["p99_ms"] / floor["p50_ms"])
                with self.daemon("ingest") as daemon:
                    figures = self.loaded(daemon, connections=connections, seconds=self.seconds)
                    if connections == 64:
                        tails.append(figures["p99_ms"] / figures["p50_ms"])
                        latencies.setdefault("full", []).append(figures)
                        for part, share in (("a quarter", 0.25), ("half", 0.5)):
                            latencies.setdefault(part, []).append(self.loaded(
                                daemon, connections=64, seconds=self.seconds, rate=figures["rate"] * share))
                    memory.append(daemon.memory("VmHWM"))
                held = ask(daemon.store, "SELECT count(*) FROM executions")
                disk.append(size(daemon.store) / held / 1000)
                remove(daemon.store)
                over_hyper[connections].append(figures["rate"] / bare["rate"])
                rates[connections].append(figures["rate"])
                bare_rates[connections].append(bare["rate"])
            store = FOLDER / "plain.db"
            plain = self.bench.run("commit", "--file", store, "--seconds", self.seconds, "--batch", 32, "--rows", 5)
            remove(store)
            over_sqlite.append(rates[64][-1] / plain["rate"])
            least_sqlite.append(appended / plain["rate"])
        row("ingest_64", "durable ingest / bare hyper, 64 connections", over_hyper[64], at_least=0.45,
            note=f"{number(median(rates[64]))} of {number(median(bare_rates[64]))} a second")
        row("ingest_256", "durable ingest / bare hyper, 256 connections", over_hyper[256], at_least=0.55,
            note=f"{number(median(rates[256]))} of {number(median(bare_rates[256]))} a second")
        for (name, connections), ratios in least.items():
            row(f"{name}_{connections}", f"  {LEAST_SAYS[name]} / bare hyper, {connections} connections", ratios)
        row("ingest_sqlite", "durable ingest, 64 connections / SQLite alone, 5 rows, batches of 32", over_sqlite, at_least=1.2)
        row("appended_sqlite", f"  {LEAST_SAYS['appended']} / the same", least_sqlite)
        for part in ("a quarter", "half", "full"):
            for field, label in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
                row(f"latency_{part.split()[-1]}_{field[:-3]}", f"{label} at {part} of the maximum",
                    [figures[field] for figures in latencies[part]], "ms")
        row("tail", "p99 / p50, 64 connections", tails, at_most=5)
        row("rows_tail", f"  {LEAST_SAYS['rows']}: p99 / p50, 64 connections", least_tails)
        row("memory_load", "memory, high water under load", memory, "MiB", at_most=48)
        row("disk", "disk per callback of two tasks, raw body of 1.1 kB kept", disk, "kB", at_most=2.5)

    def single(self):
        """One connection: an answer beside a commit of one row."""
        ratios, least, ours, plain = [], [], [], []
        for _ in range(ROUNDS):
            with self.least() as answer:
                synced = self.bench.send(answer.url, connections=1, seconds=self.seconds / 2)["p50_ms"]
            with self.daemon("single") as daemon:
                ours.append(self.loaded(daemon, connections=1, seconds=self.seconds / 2)["p50_ms"])
            remove(daemon.store)
            store = FOLDER / "plain.db"
            plain.append(self.bench.run(
                "commit", "--file", store, "--seconds", self.seconds / 2, "--batch", 1, "--rows", 1)["p50_ms"])
            remove(store)
            ratios.append(ours[-1] / plain[-1])
            least.append(synced / plain[-1])
        row("single", "p50 with one connection / SQLite commit of one row", ratios, at_most=1.4,
            note=f"{number(median(ours))} of {number(median(plain))} ms")
        row("single_kept", f"  {LEAST_SAYS['appended']}: p50 with one connection / the same commit", least)

    def waiting(self, daemon, count):
        """So many deliveries that wait."""
        daemon.sink("pause")
        self.loaded(daemon, connections=64, count=count)

    def drained(self, daemon, answer, count, seconds=300):
        """Lets the sink go on until it was told `count`: rates of each second, and of all."""
        begun, before, windows = time.monotonic(), answer.posts(), []
        daemon.sink("resume")
        at, seen = begun, before
        while seen - before < count:
            time.sleep(0.05)
            now, posts = time.monotonic(), answer.posts()
            if now - at >= 1 or posts - before >= count:
                windows.append((posts - seen) / (now - at))
                at, seen = now, posts
            if now - begun > seconds:
                sys.exit(f"{posts - before} of {count} delivered in {seconds} s")
        return {"rate": count / (time.monotonic() - begun), "windows": windows}

    def forwarding(self):
        """Waiting deliveries a second over what a bare hyper client posts; from a small store, and while ingesting."""
        count = 30_000 if self.quick else 100_000
        ratios = []
        for _ in range(ROUNDS):
            with Answer(self.bench) as answer, self.daemon("forward", to=answer.url) as daemon:
                self.waiting(daemon, count)
                drain = self.drained(daemon, answer, count)
                until("every outcome is kept", lambda: daemon.backlog() == 0)
                posted = answer.posted()
            remove(daemon.store)
            with Answer(self.bench) as answer:
                bare = self.bench.run(
                    "forward", "--to", answer.url, "--seconds", self.seconds,
                    "--bytes", round(posted["bytes"] / posted["posts"]))
            harness.raw.append({"ran": ["drain", str(count)], **drain})
            self.drains.append(drain["rate"])
            ratios.append(drain["rate"] / bare["rate"])
        row("forward", "forwarding what waits / bare hyper client, same sink", ratios,
            note=f"{number(median(self.drains))} a second")

    def together(self):
        """Ingest while all of it is forwarded, over ingest alone."""
        ratios, keeping_up, least = [], [], []
        for _ in range(ROUNDS):
            with self.least(**LEAST["read"]) as answer:
                alone = self.bench.send(answer.url, connections=64, seconds=self.seconds)
            with Answer(self.bench) as sink, self.least(**LEAST["read"], forward=sink.url) as answer:
                both = self.bench.send(answer.url, connections=64, seconds=self.seconds)
            least.append(both["rate"] / alone["rate"])
            with self.daemon("alone") as daemon:
                alone = self.loaded(daemon, connections=64, seconds=self.seconds)
            remove(daemon.store)
            with Answer(self.bench) as answer, self.daemon("together", to=answer.url) as daemon:
                both = self.loaded(daemon, connections=64, seconds=self.seconds)
                keeping_up.append(answer.posts() / both["answers"])
                until("everything is forwarded", lambda: daemon.backlog() == 0, 120, every=0.2)
                if answer.posts() < both["answers"]:
                    sys.exit(f"{both['answers']} acknowledged, {answer.posts()} forwarded")
            kept = ask(daemon.store, "SELECT count(*) FROM deliveries WHERE status = 'delivered'")
            if kept != both["answers"]:
                sys.exit(f"{both['answers']} acknowledged, {kept} kept as delivered")
            remove(daemon.store)
            ratios.append(both["rate"] / alone["rate"])
        row("together", "ingest while everything is forwarded / ingest alone", ratios, at_least=0.6)
        row("together_least", f"  {LEAST_SAYS['read']}, and posted by a bare client / the same not posted", least)
        row("together_forwarded", "of it forwarded when the last was acknowledged", keeping_up, at_least=0.95)

    def watched(self):
        """Ingest while somebody looks: the page, the metrics and doctor's queries each second; and the stream, too."""
        looked_at, listened = [], []
        for _ in range(ROUNDS):
            rates = {}
            for how in ("alone", "looked at", "listened to"):
                with self.daemon("watched") as daemon, daemon.watched(
                        how != "alone", self.seconds if how == "listened to" else 0):
                    rates[how] = self.loaded(daemon, connections=64, seconds=self.seconds)["rate"]
                remove(daemon.store)
            looked_at.append(rates["looked at"] / rates["alone"])
            listened.append(rates["listened to"] / rates["alone"])
        row("watched", "ingest while page and metrics are looked at each second / ingest alone", looked_at)
        row("listened", "ingest while somebody listens to all of it, too / ingest alone", listened)

    def footprint(self):
        """Memory and the time to become ready, without work and with ten thousand connections."""
        ready, idle, usual, least = [], [], [], []
        for _ in range(5 if self.quick else 20):
            with self.daemon("idle") as daemon:
                ready.append(daemon.ready_ms)
                time.sleep(1)
                idle.append(daemon.memory("VmRSS"))
            remove(daemon.store)
        for _ in range(3):
            with self.least(rows=True) as answer:
                time.sleep(1)
                least.append(answer.memory("VmRSS"))
            with self.daemon("usual", **readme()) as daemon:
                time.sleep(1)
                usual.append(daemon.memory("VmRSS"))
            remove(daemon.store)
        row("memory_idle", "memory, idle", idle, "MiB", at_most=10)
        row("memory_least", f"  {LEAST_SAYS['rows']}: memory, idle", least, "MiB")
        row("memory_usual", "memory, idle, README's configuration", usual, "MiB", at_most=10)
        row("ready_empty", "start to ready, empty store", ready, "ms", at_most=30)
        connections = 10_000
        with self.daemon("connections", server="connections_max = 11000") as daemon:
            words = ["send", "--to", daemon.url, "--connections", connections, "--count", connections, "--stay"]
            with subprocess.Popen([self.paths["bench"], *map(str, words)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True) as sender:
                harness.started.append(sender)
                if json.loads(sender.stdout.readline())["answers"] != connections:
                    sys.exit("not every connection was answered")
                time.sleep(2)
                memory = daemon.memory("VmRSS")
                sender.stdin.close()
                sender.wait(30)
                harness.started.remove(sender)
        remove(daemon.store)
        row("memory_connections", "memory with 10,000 idle connections, each used once", [memory], "MiB", at_most=96)
        row("binary", "binary", [os.stat(Daemon.path).st_size / 2**20], "MiB", at_most=15)

    def large(self):
        """With many executions in the store, some of them waiting to be told."""
        executions = int(os.environ.get("EXECUTIONS", 1_000_000 if self.quick else 10_000_000))
        waiting = int(os.environ.get("WAITING", executions // 10))
        room = os.statvfs(FOLDER)
        most = (room.f_bavail * room.f_frsize - 4 * 2**30) // 3200
        note = f"{number(executions)} executions, {number(waiting)} waiting"
        if executions > most:
            executions, waiting = most, min(waiting, most // 10)
            note = f"only {number(executions)} executions, {number(waiting)} waiting: the disk is too full for more"
        say(f"  fills a store: {note}")
        store = FOLDER / "large.db"
        with Answer(self.bench) as answer:
            filled = harness.configure(store, to=answer.url)
            subprocess.run([self.paths["fill"], filled, str(executions), str(waiting)], check=True, stdout=sys.stderr)
            os.sync()
            ready, down = [], f"http://127.0.0.1:{harness.free_port()}/"
            for _ in range(5):
                with Daemon(store, to=down) as daemon:
                    ready.append(daemon.ready_ms)
            row("ready_large", "start to ready, large store", ready, "ms", at_most=200, note=note)
            ratios = []
            for _ in range(ROUNDS):
                with self.daemon("empty", to=down) as daemon:
                    empty = self.loaded(daemon, connections=64, seconds=self.seconds)
                remove(daemon.store)
                with Daemon(store, to=down) as daemon:
                    figures = self.bench.send(daemon.url, connections=64, seconds=self.seconds)
                ratios.append(figures["rate"] / empty["rate"])
            row("ingest_large", "ingest while the sink is down, large store / empty store", ratios, at_least=0.85, note=note)
            with Daemon(store, to=answer.url) as daemon:
                drain = self.drained(daemon, answer, waiting, seconds=600)
                harness.raw.append({"ran": ["drain", str(waiting)], **drain})
                memory = daemon.memory("VmHWM")
            row("drain", f"drain of {number(waiting)} waiting deliveries", drain["windows"], "/s",
                note=f"{number(drain['rate'])} a second in all, at most {number(memory)} MiB")
            if self.drains:
                row("claims_large", "forwarding what waits, large store / small store",
                    [drain["rate"] / rate for rate in self.drains])
        remove(store)

    def backlog(self):
        """With a sink that is down and millions waiting for it, and with nothing that waits, in equal stores."""
        executions = 200_000 if self.quick else 2_000_000
        down, stores = f"http://127.0.0.1:{harness.free_port()}/", {}
        for waiting in (0, executions):
            say(f"  fills a store: {number(executions)} executions, {number(waiting)} waiting")
            stores[waiting] = FOLDER / f"backlog-{waiting}.db"
            filled = harness.configure(stores[waiting], to=down)
            subprocess.run([self.paths["fill"], filled, str(executions), str(waiting)], check=True, stdout=sys.stderr)
        os.sync()
        ratios, memory = [], []
        for _ in range(ROUNDS):
            rates = {}
            for waiting, store in stores.items():
                with Daemon(store, to=down) as daemon:
                    rates[waiting] = self.loaded(daemon, connections=64, seconds=self.seconds)["rate"]
                    if waiting:
                        memory.append(daemon.memory("VmHWM"))
            ratios.append(rates[executions] / rates[0])
        note = f"{number(executions)} executions, all of them waiting"
        row("ingest_backlog", "ingest while all that is stored waits for a sink that is down / while nothing does", ratios,
            at_least=0.9, note=note)
        row("memory_backlog", "memory, high water under load, with that backlog", memory, "MiB", at_most=48, note=note)
        for store in stores.values():
            remove(store)

    def instructions(self):
        """Callgrind's count, which is nearly the same on every machine."""
        for connections in (64, 1):
            count, bare = instructions.count(connections), instructions.count(connections, self.bench)
            reach = {"at_most": 55_000} if connections == 64 else {}
            row(f"instructions_{connections}", f"instructions per callback, {connections} connections", [count], **reach)
            reach = {"at_most": 6} if connections == 64 else {}
            row(f"instructions_{connections}_least", f"  {LEAST_SAYS['read']}, {connections} connections",
                [instructions.count(connections, self.bench, keep=FOLDER / "kept", **LEAST["read"])])
            row(f"instructions_{connections}_ratio", f"instructions / bare hyper's, {connections} connections",
                [count / bare], note=f"of {number(bare)}", **reach)


PARTS = ("ingest", "single", "forwarding", "together", "watched", "footprint", "backlog", "large", "instructions")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--profile", default="release", help="cargo's; another than release shows only that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    options = parser.parse_args()
    paths = harness.build(["bench"] + ["fill"] * bool({"backlog", "large"} & set(options.only)), options.profile)
    Daemon.path = paths["callbackd"]
    measures, failed, where = Measures(paths, options.quick), {}, harness.where()
    for part in PARTS:
        if part in options.only:
            begun = time.monotonic()
            say(f"{part}:")
            with harness.attempt(part, failed):
                getattr(measures, part)()
            for store in FOLDER.glob("*.db*"):
                store.unlink()
            say(f"  in {time.monotonic() - begun:.0f} s")
    results = {**where, "quick": options.quick, "rows": rows, "failed": failed, "runs": harness.raw}
    print(f"\n{'measure':<66} {'median':>13}  {'min–max':>15}  reach")
    for each in rows:
        print(line(each))
    missed = [each["measure"] for each in rows if each["reached"] is False]
    print(f"\n{len(missed)} of {sum(each['reached'] is not None for each in rows)} not reached" +
          (": " + "; ".join(missed) if missed else ""))
    for part, why in failed.items():
        print(f"FAILED {part}: {why}")
    for path in [TARGET / "bench.json", options.json]:
        if path:
            path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if options.picture:
        options.picture.write_text(picture.measures(results))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
