#!/usr/bin/env python3
"""`make bench-shared`: several callbackd on one PostgreSQL, beside pgbench with equal rows, and beside SQLite, in turn.

    run.py [--quick] [--only NAME…] [--json FILE]         with --only, FILE keeps what it has of the other parts

Starts a PostgreSQL of its own (tests/peers/postgres.sh) with its data on the disk that SQLite's store is on, and fsync
and synchronous_commit on. Each figure of ingest is taken in a new database, right after a checkpoint; only `backlog` has
a full one. What was measured is written to target/shared.json, and with --json elsewhere, too; `scale.py` goes on from it.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import resource
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import FOLDER, ROOT, SINK, TARGET, Answer, Bench, Daemon, Process, ask, get, median, remove, say, until
from run import line, number, row, rows

# Enough for all of a run between two checkpoints, so that none begins meanwhile.
SETTINGS = "-c shared_buffers=1GB -c max_wal_size=12GB -c checkpoint_timeout=1h -c unix_socket_directories="
CONNECTIONS = 96  # of all senders together
REPLICAS = (1, 2, 3)
ROUNDS = 3
FEW = 150_000  # that wait, where few do
TICK = os.sysconf("SC_CLK_TCK")

# A row of each as the product wrote it once, with ids, identity and key of its own. `n.i` is the id.
RECEIPT = """INSERT INTO receipts SELECT n.i, source, status, received_at, peer, headers, body, body_bytes, digest, reason,
    n.i, executions FROM {n} n, seed_receipts"""
HEAD = """INSERT INTO execution_heads SELECT n.i, substring(sha256(int8send(n.i)) FOR 16), source, 'i' || md5(n.i::text), seen,
    status, n.i, sequence, previous, type, previous_status, changed_tasks, n.i, received_at, snapshot, n.i + 1
    FROM {n} n, seed_heads"""
DELIVERY = """INSERT INTO deliveries SELECT n.i + 1, n.i, sink, n.i, 'waiting', n.i, 0, n.i, NULL, FALSE, NULL, NULL, NULL
    FROM {n} n, seed_deliveries"""
IDS = "(SELECT nextval('seed_ids') AS i FROM generate_series(1, {count}))"


class Server:
    """The PostgreSQL, asked by psql."""

    def __init__(self, url):
        self.base = url.rsplit("/", 1)[0]
        bins = [pathlib.Path(folder) for folder in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))]
        self.bin = bins[-1] if bins else pathlib.Path("/usr/bin")
        first = self.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        self.postmaster = int(_stat(first)[1])

    def url(self, database):
        return f"{self.base}/{database}?sslmode=disable"

    def sql(self, *statements, database="postgres"):
        words = [word for statement in statements for word in ("-c", statement)]
        done = subprocess.run([self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", self.url(database), *words],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{statements[-1][:200]}: {done.stderr[-1000:]}")
        return done.stdout.strip()

    def pgbench(self, database, script, clients, seconds):
        """Transactions a second of a script, and their mean time."""
        path = FOLDER / "pgbench.sql"
        path.write_text(script)
        words = ["-n", "-f", path, "-c", clients, "-j", min(clients, 2), "-T", seconds, self.url(database)]
        done = subprocess.run([self.bin / "pgbench", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        found = re.search(r"actually processed: (\d+).*^tps = ([\d.]+)", done.stdout, re.M | re.S)
        if done.returncode != 0 or not found:
            sys.exit(f"pgbench: {done.stdout[-2000:]}")
        self.took = int(found[1]) / float(found[2])
        return float(found[2])

    def cpu(self):
        """Seconds of processor time that the server has used, those of ended processes among them."""
        own = _stat(self.postmaster)
        ticks = sum(map(int, own[11:15]))
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                stat = _stat(path.name)
                if int(stat[1]) == self.postmaster:
                    ticks += sum(map(int, stat[11:13]))
        return ticks / TICK

    def wal(self):
        """Bytes of WAL, images of whole pages, and syncs, up to now."""
        found = self.sql("SELECT pg_current_wal_insert_lsn() - '0/0', wal_fpi, wal_sync FROM pg_stat_wal")
        return [float(value) for value in found.split("|")]


def _stat(pid):
    """The fields of /proc/PID/stat behind the name: state, parent, …"""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class Wire(threading.Thread):
    """Between callbackd and PostgreSQL: counts how often one speaks after it was answered, on all connections."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.to, self.trips, self.listener = port, 0, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.to))
            said = {"last": far}
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.carry, args=(one, other, near, said), daemon=True).start()

    def carry(self, one, other, near, said):
        with contextlib.suppress(OSError):
            while piece := one.recv(1 << 18):
                if one is near and said["last"] is not near:
                    self.trips += 1
                said["last"] = one
                other.sendall(piece)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Commits(collections.namedtuple("Commits", "count commands seconds")):
    """What daemons say of their commits."""

    @classmethod
    def of(cls, daemons):
        found = [0, 0, 0]
        for daemon in daemons:
            page = get(f"http://127.0.0.1:{daemon.admin}/metrics").decode()
            for at, name in enumerate(("commit_commands_count", "commit_commands_sum", "commit_seconds_sum")):
                found[at] += float(re.search(rf"^callbackd_{name} (\S+)", page, re.M)[1])
        return cls(*found)

    def since(self, before):
        return Commits(*(now - then for now, then in zip(self, before)))


class Measures:
    def __init__(self, server, bench, quick):
        self.server, self.bench, self.quick = server, bench, quick
        self.seconds = 2 if quick else 4
        self.rounds = 1 if quick else ROUNDS
        self.waiting = 300_000 if quick else 1_000_000
        self.figures = {}  # what scale.py reckons with

    def prepared(self):
        """Databases to be copied: `empty` has callbackd's tables and a row of each sort to copy; `full`, what waits."""
        self.server.sql("CREATE DATABASE empty")
        with self.daemon("empty", to="http://127.0.0.1:9/") as daemon:
            daemon.sink("pause")
            self.bench.send(daemon.url, connections=1, count=1)
        self.server.sql(
            "CREATE TABLE seed_receipts AS SELECT * FROM receipts", "CREATE TABLE seed_heads AS SELECT * FROM execution_heads",
            "CREATE TABLE seed_deliveries AS SELECT * FROM deliveries",
            "TRUNCATE receipts, execution_heads, deliveries, attempts, sink_pauses, replicas",
            "CREATE SEQUENCE seed_ids START 1700000000000000 INCREMENT 16 CACHE 1000", database="empty")
        if self.server.sql("SELECT count(*) FROM seed_heads, seed_receipts, seed_deliveries", database="empty") != "1":
            sys.exit("there is no seed")

    @contextlib.contextmanager
    def fresh(self):
        """An empty database, right after a checkpoint."""
        self.server.sql("CREATE DATABASE fresh TEMPLATE empty", "CHECKPOINT")
        try:
            yield "fresh"
        finally:
            self.server.sql("DROP DATABASE fresh WITH (FORCE)")

    def daemon(self, database, to=None, port=None):
        url = self.server.url(database)
        if port:
            url = re.sub(r":\d+/", f":{port}/", url)
        return Daemon(FOLDER / "shared.db", to=to, environment={"CALLBACKD__STORE__URL": url})

    @contextlib.contextmanager
    def daemons(self, database, count, **more):
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.daemon(database, **more)) for _ in range(count)]

    def send(self, daemons, connections=CONNECTIONS, **load):
        """Sends to all of them at one time."""
        with concurrent.futures.ThreadPoolExecutor(len(daemons)) as pool:
            each = max(1, connections // len(daemons))
            load.setdefault("seconds", self.seconds)
            found = list(pool.map(lambda daemon: self.bench.send(daemon.url, connections=each, **load), daemons))
        return {"answers": sum(one["answers"] for one in found), "rate": sum(one["rate"] for one in found),
                "p50_ms": median([one["p50_ms"] for one in found]), "p99_ms": max(one["p99_ms"] for one in found)}

    def loaded(self, database, daemons, **load):
        """What that cost, for each callback; and whether the store has all that was acknowledged."""
        held = "SELECT count(*) FROM execution_heads"
        kept, commits = int(self.server.sql(held, database=database)), Commits.of(daemons)
        wal, used = self.server.wal(), [self.server.cpu(), *map(used_by, daemons)]
        sender = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures = self.send(daemons, **load)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        count, used_after = figures["answers"], [self.server.cpu(), *map(used_by, daemons)]
        wal_bytes = self.server.wal()[0] - wal[0]
        commits = Commits.of(daemons).since(commits)
        if int(self.server.sql(held, database=database)) - kept != count:
            sys.exit(f"{count} acknowledged, and not so many kept")
        us = lambda seconds: 1e6 * seconds / count
        figures |= {
            "replicas": len(daemons), "batch": commits.commands / commits.count, "commits": commits.count,
            "commit_ms": 1000 * commits.seconds / commits.count, "wal_bytes": wal_bytes / count,
            "postgres_us": us(used_after[0] - used[0]), "callbackd_us": us(sum(used_after[1:]) - sum(used[1:])),
            "sender_us": us(after.ru_utime + after.ru_stime - sender.ru_utime - sender.ru_stime)}
        harness.raw.append({"ran": ["loaded", database, str(load)], **figures})
        return figures

    def plain(self, batch, clients):
        """pgbench with equal rows: `batch` callbacks in one transaction and one round trip; what it is a second, and in WAL."""
        ids = IDS.format(count=batch)
        script = "BEGIN \\;\n" + " \\;\n".join(sql.format(n=ids) for sql in (RECEIPT, HEAD)) + " \\;\nCOMMIT;\n"
        with self.fresh() as database:
            wal = self.server.wal()[0]
            tps = self.server.pgbench(database, script, clients, self.seconds)
            wal = self.server.wal()[0] - wal
            rows = int(self.server.sql("SELECT count(*) FROM execution_heads", database=database))
        figures = {"rate": tps * batch, "wal_bytes": wal / rows, "commit_ms": 1000 * clients / tps}
        harness.raw.append({"ran": ["pgbench", str(batch), str(clients)], **figures})
        return figures

    def sqlite(self, to=None):
        store = FOLDER / "file.db"
        with Daemon(store, to=to) as daemon:
            begun = used_by(daemon)
            figures = self.send([daemon])
            figures["callbackd_us"] = 1e6 * (used_by(daemon) - begun) / figures["answers"]
            if to is not None:
                until("everything is forwarded", lambda: daemon.backlog() == 0, 120, every=0.2)
        if ask(store, "SELECT count(*) FROM executions") != figures["answers"]:
            sys.exit("SQLite has not what was acknowledged")
        remove(store)
        return figures

    def ingest(self):
        """Callbacks that nobody is told, two rows each: SQLite, one to three on PostgreSQL, and pgbench, in turn."""
        found = collections.defaultdict(list)
        for _ in range(self.rounds):
            found["sqlite"].append(self.sqlite())
            for count in REPLICAS:
                with self.fresh() as database, self.daemons(database, count) as daemons:
                    found[count].append(self.loaded(database, daemons))
            batch = max(1, round(found[1][-1]["batch"]))
            found["batches"].append(self.plain(batch, 1))
            found["batches of three"].append(self.plain(batch, 3))
            found["single"].append(self.plain(1, CONNECTIONS))
        rates = {name: [one["rate"] for one in each] for name, each in found.items()}
        row("sqlite", "one callbackd on SQLite", rates["sqlite"], "/s")
        for count in REPLICAS:
            row(f"shared_{count}", f"{count} callbackd on one PostgreSQL", rates[count], "/s",
                note=f"p50 {number(middle(found[count], 'p50_ms'))} ms, p99 {number(middle(found[count], 'p99_ms'))} ms")
        row("pgbench_single", f"  pgbench, equal rows, each a transaction, {CONNECTIONS} connections", rates["single"], "/s")
        row("pgbench_batch", "  pgbench, equal rows in batches as the one has, 1 connection", rates["batches"], "/s")
        row("pgbench_batch_3", "  the same, 3 connections", rates["batches of three"], "/s")
        for count in REPLICAS:
            over = lambda name: [ours / theirs for ours, theirs in zip(rates[count], rates[name])]
            row(f"over_sqlite_{count}", f"{count} on PostgreSQL / one on SQLite", over("sqlite"))
            row(f"over_single_{count}", f"{count} on PostgreSQL / pgbench, each a transaction", over("single"))
            batches = "batches" if count == 1 else "batches of three"
            row(f"over_batch_{count}", f"{count} on PostgreSQL / pgbench in batches", over(batches))
        self.costs("", found)
        row("pgbench_wal", "  of pgbench, in batches", [one["wal_bytes"] for one in found["batches"]], "B")
        row("pgbench_wal_single", "  of pgbench, each a transaction", [one["wal_bytes"] for one in found["single"]], "B")
        row("sqlite_us", "processor per callback, callbackd on SQLite", [one["callbackd_us"] for one in found["sqlite"]], "µs")
        self.figures["ingest"] = {field: middle(found[1], field) for field in found[1][0]}

    def costs(self, what, found):
        for count in [count for count in REPLICAS if count in found]:
            for field, says, unit in (
                    ("postgres_us", "processor per callback, PostgreSQL", "µs"), ("callbackd_us", "processor per callback", "µs"),
                    ("wal_bytes", "WAL per callback", "B"), ("batch", "commands in a commit", "")):
                values = [one[field] for one in found[count]]
                row(f"{field}{what.replace(', ', '_')}_{count}", f"{says}, {count} callbackd{what}", values, unit)

    def told(self):
        """Callbacks of which one sink is told: with what is claimed, settled and kept of it."""
        found = collections.defaultdict(list)
        for _ in range(self.rounds):
            for count in (1, 3):
                with Answer(self.bench) as answer:
                    with self.fresh() as database, self.daemons(database, count, to=answer.url) as daemons:
                        found[count].append(self.told_once(database, daemons))
                    if answer.posts() < found[count][-1]["answers"]:
                        sys.exit(f"{answer.posts()} told of {found[count][-1]['answers']}")
            with Answer(self.bench) as answer:
                found["sqlite"].append(self.sqlite(to=answer.url))
        for name, says in ((1, "1 callbackd on PostgreSQL"), (3, "3 callbackd on PostgreSQL"), ("sqlite", "one on SQLite")):
            row(f"told_{name}", f"{says}, and a sink is told of each", [one["rate"] for one in found[name]], "/s")
        self.costs(", told", found)
        row("told_disk", "database per callback that was told", [one["disk_bytes"] for one in found[1]], "B")
        self.figures["told"] = {field: middle(found[1], field) for field in found[1][0]}

    def told_once(self, database, daemons):
        """As `loaded`, up to where everything was told and that is kept."""
        wal, used = self.server.wal(), [self.server.cpu(), *map(used_by, daemons)]
        commits, figures = Commits.of(daemons), self.send(daemons)
        open_now = "SELECT count(*) FROM deliveries WHERE finished_at IS NULL"
        until("everything is told", lambda: self.server.sql(open_now, database=database) == "0", 180, every=0.3)
        count, after = figures["answers"], [self.server.cpu(), *map(used_by, daemons)]
        commits = Commits.of(daemons).since(commits)
        size = int(self.server.sql("SELECT pg_database_size('fresh') - pg_database_size('empty')"))
        figures |= {
            "wal_bytes": (self.server.wal()[0] - wal[0]) / count, "postgres_us": 1e6 * (after[0] - used[0]) / count,
            "callbackd_us": 1e6 * (sum(after[1:]) - sum(used[1:])) / count, "batch": commits.commands / commits.count,
            "commits_each": commits.count / count, "disk_bytes": size / count}
        harness.raw.append({"ran": ["told", str(len(daemons))], **figures})
        return figures

    def synced(self):
        """How long the disk takes for 8 KiB."""
        times = []
        with open(FOLDER / "synced", "wb") as file:
            for _ in range(300):
                os.pwrite(file.fileno(), b"x" * 8192, 0)
                begun = time.monotonic()
                os.fdatasync(file.fileno())
                times.append(1000 * (time.monotonic() - begun))
        row("sync", "a sync of 8 KiB on this disk, the median of 300", [median(times)], "ms")

    def commits(self):
        """How long a commit takes, by how many callbacks share it; and how long senders wait at half of the most."""
        self.synced()
        points = []
        for connections in (1, 8, 32, 96, 384):
            with self.fresh() as database, self.daemons(database, 1) as daemons:
                points.append(self.loaded(database, daemons, connections=connections, seconds=self.seconds * 0.6))
            row(f"commit_{connections}", f"a commit, {connections} connections", [points[-1]["commit_ms"]], "ms",
                note=f"{number(points[-1]['batch'])} callbacks each; {number(points[-1]['rate'])} a second")
        with self.fresh() as database, self.daemons(database, 1) as daemons:
            half = self.loaded(database, daemons, rate=points[3]["rate"] / 2)
        row("half_p50", "p50 at half of the most", [half["p50_ms"]], "ms")
        row("half_p99", "p99 at half of the most", [half["p99_ms"]], "ms")
        fields = ("batch", "commit_ms", "rate", "p50_ms", "p99_ms")
        self.figures["commits"] = [{field: one[field] for field in fields} for one in points]
        self.figures["half"] = {"rate": half["rate"], "p50_ms": half["p50_ms"], "p99_ms": half["p99_ms"]}

    def trips(self):
        """Round trips, counted at the wire: what goes there is slower, and in smaller batches or larger ones, but as often."""
        port = int(re.search(r":(\d+)$", self.server.base)[1])
        for connections in (1, CONNECTIONS):
            wire = Wire(port)
            with self.fresh() as database, self.daemons(database, 1, port=wire.port) as daemons:
                before, commits = wire.trips, Commits.of(daemons)
                figures = self.send(daemons, connections=connections, seconds=2)
                trips, commits = wire.trips - before, Commits.of(daemons).since(commits)
            wire.listener.close()
            row(f"trips_{connections}", f"round trips per commit, {connections} connections", [trips / commits.count])
            row(f"trips_each_{connections}", f"round trips per callback, {connections} connections", [trips / figures["answers"]])
            self.figures[f"trips_{connections}"] = {"commit": trips / commits.count, "callback": trips / figures["answers"]}

    def fill(self):
        """A database of executions whose deliveries wait."""
        begun = time.monotonic()
        self.server.sql("CREATE DATABASE backlog TEMPLATE empty")
        first = int((time.time() - 7200) * 1e6) // 16 * 16
        ids = f"generate_series({first}, {first + 16 * (self.waiting - 1)}, 16)"
        of = f"(SELECT i FROM {ids} AS i)"
        self.server.sql(HEAD.format(n=of), DELIVERY.format(n=of), "VACUUM ANALYZE", database="backlog")
        self.server.sql("CREATE DATABASE few TEMPLATE empty")
        of = f"(SELECT i FROM generate_series({first}, {first + 16 * (FEW - 1)}, 16) AS i)"
        self.server.sql(HEAD.format(n=of), DELIVERY.format(n=of), "VACUUM ANALYZE", database="few")
        self.server.sql("CHECKPOINT")
        say(f"{self.waiting} wait, after {time.monotonic() - begun:.0f} s")

    def backlog(self):
        """While so many wait: callbacks that are kept, what sinks are told, and claims alone."""
        said = f"{self.waiting:,} waiting".replace(",", " ")
        rates, kept = collections.defaultdict(list), []
        pause = f"INSERT INTO sink_pauses VALUES ('{SINK}', 'measured') ON CONFLICT DO NOTHING"
        for _ in range(self.rounds):
            self.server.sql("CHECKPOINT")
            fpi = self.server.wal()[1]
            with self.daemons("backlog", 1) as daemons:
                kept.append(self.loaded("backlog", daemons))
            time.sleep(0.5)
            kept[-1]["images"] = (self.server.wal()[1] - fpi) / kept[-1]["answers"]
            for count in REPLICAS:
                self.server.sql(pause, database="backlog")
                with Answer(self.bench) as answer, self.daemons("backlog", count, to=answer.url) as daemons:
                    daemons[0].sink("resume")
                    until("the sink is told", lambda: answer.posts() > 1000)
                    begun, before, used = time.monotonic(), answer.posts(), [self.server.cpu(), sum(map(used_by, daemons))]
                    time.sleep(self.seconds * 0.6)
                    told = answer.posts() - before
                    rates[count].append(told / (time.monotonic() - begun))
                    harness.raw.append({"ran": ["drain", str(count)], "rate": rates[count][-1],
                                        "postgres_us": 1e6 * (self.server.cpu() - used[0]) / told,
                                        "callbackd_us": 1e6 * (sum(map(used_by, daemons)) - used[1]) / told})
                    daemons[0].sink("pause")
        row("kept_backlog", f"1 callbackd, {said}", [one["rate"] for one in kept], "/s")
        row("wal_backlog", f"WAL per callback, {said}, after a checkpoint", [one["wal_bytes"] for one in kept], "B",
            note=f"{number(middle(kept, 'images'))} images of whole pages each")
        for count in REPLICAS:
            row(f"drain_{count}", f"told by {count} callbackd, {said}", rates[count], "/s")
        pages = self.server.sql("SELECT sum(relpages), max(reltuples) FROM pg_class WHERE relname IN "
                                "('execution_heads_identity_key', 'execution_heads_key')", database="backlog").split("|")
        self.figures["backlog"] = {
            "executions": float(pages[1]), "random_pages": float(pages[0]), "answers": middle(kept, "answers"),
            "wal_bytes": middle(kept, "wal_bytes"), "images": middle(kept, "images")}
        self.claims(said)
        self.server.sql("DROP DATABASE backlog", "DROP DATABASE few")

    def claims(self, said):
        """The product's own statement, 256 at a time, from a backlog and from a few."""
        source = (ROOT / "src/store/postgres/claim.rs").read_text()
        claim = re.search(r'const CLAIM: &str = "(.*?)";', source, re.S)[1]
        now = "(extract(epoch FROM now()) * 1e6)::bigint"
        values = {1: f"'{SINK}'", 2: now, 3: "256", 4: now, 5: f"{now} + 600000000", 6: "1", 7: "1048576", 8: "FALSE"}
        script = re.sub(r"\$(\d)", lambda found: values[int(found[1])], claim) + ";\n"
        found = collections.defaultdict(list)
        for database in ("backlog", "few"):
            self.server.sql("DELETE FROM sink_pauses", database=database)
        leased = "SELECT count(*) FROM deliveries WHERE status = 'leased' AND holder = 1"
        for _ in range(self.rounds):
            for database, clients in (("backlog", 1), ("backlog", 3), ("few", 1)):
                back = "UPDATE deliveries SET status = 'waiting', due_at = created_at, holder = NULL WHERE status = 'leased'"
                self.server.sql(back, "VACUUM deliveries", database=database)
                tps = self.server.pgbench(database, script, clients, 1 if database == "few" else 2)
                left = "SELECT count(*) FROM deliveries WHERE status = 'waiting' AND finished_at IS NULL"
                if self.server.sql(left, database=database) == "0":
                    sys.exit("too few wait for so quick a claim")
                count = int(self.server.sql(leased, database=database))
                found[database, clients].append((count / self.server.took, tps))
        for (database, clients), each in found.items():
            what = said if database == "backlog" else f"{FEW:,} waiting".replace(",", " ")
            row(f"claims_{database}_{clients}", f"leased by claims alone, {clients} connections, {what}",
                [rate for rate, _ in each], "/s", note=f"{number(median([tps for _, tps in each]))} claims a second")


def used_by(daemon):
    return sum(map(int, _stat(daemon.process.pid)[11:13])) / TICK


def middle(each, field):
    return median([one[field] for one in each])


PARTS = ("backlog", "trips", "commits", "told", "ingest")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--profile", default="release")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    address = os.environ.get("CALLBACKD_TEST_POSTGRES")
    if not address:
        harness._cleanup()
        os.environ |= {"POSTGRES_IN": str(TARGET), "POSTGRES_WITH": SETTINGS}
        os.execv(ROOT / "tests/peers/postgres.sh", ["postgres.sh", *sys.argv])
    paths = harness.build(profile=options.profile, features="postgres")
    Daemon.path = paths["callbackd"]
    server = Server(address)
    measures, failed = Measures(server, Bench(paths), options.quick), {}
    measures.prepared()
    if "backlog" in options.only:
        measures.fill()
    where = harness.where()
    names = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "server_version")
    settings = {name: server.sql(f"SHOW {name}") for name in names}
    parts = {}
    for part in [part for part in PARTS if part in options.only]:
        begun, first, load = time.monotonic(), len(rows), os.getloadavg()[0]
        say(f"{part}:")
        with harness.attempt(part, failed):
            getattr(measures, part)()
        parts[part] = {"load": round(load, 1), "load_after": round(os.getloadavg()[0], 1), "rows": rows[first:]}
        say(f"  in {time.monotonic() - begun:.0f} s, load {load:.1f} to {parts[part]['load_after']}")
    results = {**where, "quick": options.quick, "settings": settings, "parts": parts, "figures": measures.figures,
               "failed": failed, "runs": harness.raw}
    print(f"\n{'measure':<66} {'median':>13}  {'min–max':>15}")
    for each in rows:
        print(line(each))
    for part, why in failed.items():
        print(f"FAILED {part}: {why}")
    for path in [TARGET / "shared.json", options.json]:
        if path:
            before = json.loads(path.read_text()) if options.only != PARTS and path.exists() else {}
            kept = {key: {**before.get(key, {}), **results[key]} for key in ("parts", "figures")}
            path.write_text(json.dumps({**results, **kept}, indent=1, ensure_ascii=False) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
