#!/usr/bin/env python3
"""callbackd beside what users would pick instead: the same callbacks, the same sender, the same sink, in turn.

    run.py [--quick] [--only NAME…] [--json FILE] [--picture FILE]

POST → durable → 2xx → HTTP sink. Counted is what was acknowledged and had reached the sink, over the time from the first
callback to the last delivery; who has not delivered everything a while after the last callback is counted with what it
has delivered by then. What each peer's 2xx means stands in README.md. What cannot be had or started here is named in the table,
with the reason, and the others still run.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import picture
from harness import FOLDER, TARGET, Answer, Bench, Daemon, Process, ask, free_port, median, need, remove, say, until

HERE = pathlib.Path(__file__).resolve().parent
INSTALLED = TARGET / "peers"
ROUNDS = 3
CONNECTIONS = 64


class Missing(Exception):
    """A peer that cannot be had here."""


def npm():
    """Installs what package.json names; returns the folder of the packages."""
    INSTALLED.mkdir(exist_ok=True)
    wanted = (HERE / "package.json").read_text()
    done = INSTALLED / "package.done"
    if done.exists() and done.read_text() == wanted:
        return INSTALLED / "node_modules"
    for command in ("node", "npm"):
        if not shutil.which(command):
            raise Missing(f"there is no {command}")
    (INSTALLED / "package.json").write_text(wanted)
    log = INSTALLED / "npm.log"
    with open(log, "wb") as out:
        try:
            subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=INSTALLED, check=True,
                           stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=1200)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as e:
            raise Missing(f"npm install failed, see {log}") from e
    done.write_text(wanted)
    return INSTALLED / "node_modules"


def folder(name):
    path = FOLDER / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


class Callbackd:
    name = "callbackd"
    store = FOLDER / "callbackd.db"

    def start(self, sink):
        self.url = Daemon(self.store, to=sink).url

    def stopped(self):
        remove(self.store)


class Restate:
    """One node as it comes, and a service of the JavaScript SDK."""

    name = "Restate"

    def install(self):
        self.packages = npm()
        servers = list(self.packages.glob("@restatedev/restate-server-*/bin/restate-server"))
        if not servers:
            raise Missing("there is no server for this machine in the package")
        self.server = servers[0]

    def start(self, sink):
        ingress, admin, node, service = (free_port() for _ in range(4))
        # Where a module looks for packages is beside it.
        shutil.copy(HERE / "restate.mjs", INSTALLED)
        Process("restate-service", ["node", INSTALLED / "restate.mjs", service, sink],
                         env={**os.environ, "NODE_ENV": "production", "RESTATE_LOGGING": "ERROR"}).wait_for(service)
        server = Process(
            "restate", [self.server, "--no-logo", "--node-name", "bench", "--base-dir", folder("restate")], cwd=FOLDER,
            env={**os.environ, "RESTATE_BIND_IP": "127.0.0.1", "RESTATE_LISTEN_MODE": "tcp", "RESTATE_LOG_FILTER": "warn",
                 "RESTATE_BIND_PORT": str(node), "RESTATE_INGRESS__BIND_PORT": str(ingress),
                 "RESTATE_ADMIN__BIND_PORT": str(admin), "RESTATE_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"})
        server.wait_for(admin).wait_for(ingress)
        deployment = json.dumps({"uri": f"http://127.0.0.1:{service}"}).encode()

        def registered():
            request = urllib.request.Request(f"http://127.0.0.1:{admin}/deployments", deployment,
                                             {"content-type": "application/json"})
            try:
                urllib.request.urlopen(request, timeout=30).close()
                return True
            except OSError:
                return False

        until("Restate takes the service", registered, every=0.5)
        self.url = f"http://127.0.0.1:{ingress}/callbacks/take/send"
        until("Restate takes a callback", lambda: posts(self.url, b"<first/>"), every=0.5)

    def stopped(self):
        shutil.rmtree(FOLDER / "restate", ignore_errors=True)


class NodeRed:
    """A flow: HTTP in, SQLite (WAL, synchronous=FULL), answer, HTTP request."""

    name = "Node-RED, SQLite"

    def install(self):
        self.packages = npm()

    def start(self, sink):
        port, user = free_port(), folder("node-red")
        shutil.copy(HERE / "node_red.js", user / "settings.js")
        shutil.copy(HERE / "node_red.json", user / "flows.json")
        (user / "node_modules").symlink_to(self.packages)
        (user / "package.json").write_text('{"name": "flows", "dependencies": {"node-red-node-sqlite": "*"}}')
        server = Process("node-red", ["node", self.packages / "node-red/red.js", "--userDir", user],
                         env={**os.environ, "NODE_ENV": "production", "PORT": str(port), "SINK": sink,
                              "DATABASE": str(user / "callbacks.db")}).wait_for(port)
        self.url = f"http://127.0.0.1:{port}/callbacks"
        until("Node-RED takes a callback", lambda: posts(self.url, b"<first/>"), every=0.5)
        if ask(user / "callbacks.db", "SELECT body FROM receipts") != "<first/>":
            server.fail("Node-RED does not keep what was sent")

    def stopped(self):
        shutil.rmtree(FOLDER / "node-red", ignore_errors=True)


class Webhook:
    """Debian's webhook with a script of a few lines."""

    name = "webhook, script"

    def install(self):
        """Unpacked, not installed: the package would start a service."""
        unpacked = INSTALLED / "webhook"
        self.program = unpacked / "usr/bin/webhook"
        if not self.program.exists():
            if not shutil.which("apt-get"):
                raise Missing("this is no Debian")
            unpacked.mkdir(parents=True, exist_ok=True)
            update = "apt-get update -qq && " if os.geteuid() == 0 else ""
            done = subprocess.run(f"{update}apt-get download -qq webhook && dpkg -x webhook_*.deb .", shell=True,
                                  cwd=unpacked, stdin=subprocess.DEVNULL, stdout=sys.stderr)
            if done.returncode != 0:
                raise Missing("apt-get did not bring it")
        need("curl", "curl")

    def start(self, sink):
        port, spool = free_port(), folder("spool")
        hooks = FOLDER / "hooks.json"
        hooks.write_text(json.dumps([{
            "id": "callbacks", "execute-command": str(HERE / "webhook.sh"), "include-command-output-in-response": True,
            "pass-arguments-to-command": [{"source": "raw-request-body"}]}]))
        Process("webhook", [self.program, "-hooks", hooks, "-ip", "127.0.0.1", "-port", port],
                         env={**os.environ, "SPOOL": str(spool), "SINK": sink}).wait_for(port)
        self.url = f"http://127.0.0.1:{port}/hooks/callbacks"

    def stopped(self):
        shutil.rmtree(FOLDER / "spool", ignore_errors=True)


def posts(url, body):
    """Whether a POST is answered 2xx."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": "application/xml"}), timeout=10).close()
        return True
    except OSError:
        return False


def measure(peer, bench, seconds):
    """One round: callbacks a second that were acknowledged, and that were acknowledged and forwarded."""
    with Answer(bench) as answer:
        begun = len(harness.started)
        try:
            peer.start(answer.url)
            time.sleep(1)
            before, begun = answer.posts(), time.monotonic()
            sent = bench.send(peer.url, connections=CONNECTIONS, seconds=seconds)
            # A peer that is slow at forwarding is given four times the time in which it took what it forwards.
            while (forwarded := answer.posts() - before) < sent["answers"] and time.monotonic() - begun < 5 * seconds:
                time.sleep(0.02)
            took = time.monotonic() - begun
        finally:
            harness.stop_since(begun)
            peer.stopped()
    figures = {"accepted": sent["rate"], "p50_ms": sent["p50_ms"], "p99_ms": sent["p99_ms"],
               "forwarded": min(forwarded, sent["answers"]) / took, "share": min(forwarded / sent["answers"], 1)}
    harness.raw.append({"ran": ["peer", peer.name], **figures})
    say(f"  {peer.name}: {figures['accepted']:.0f} accepted a second, {figures['forwarded']:.0f} accepted and forwarded")
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    known = {"restate": Restate(), "node-red": NodeRed(), "webhook": Webhook()}
    parser.add_argument("--only", nargs="+", choices=known, default=list(known))
    parser.add_argument("--profile", default="release")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    options = parser.parse_args()
    paths, where = harness.build(profile=options.profile), harness.where()
    Daemon.path, bench = paths["callbackd"], Bench(paths)
    peers, missing = [Callbackd()], {"Svix server": "its server could not be had as a package"}
    for name in options.only:
        with harness.attempt(known[name].name, missing):
            known[name].install()
            peers.append(known[name])
    found = {peer.name: [] for peer in peers}
    for _ in range(ROUNDS):
        for peer in [peer for peer in peers if peer.name not in missing]:
            with harness.attempt(peer.name, missing):
                found[peer.name].append(measure(peer, bench, 4 if options.quick else 10))
    if "callbackd" in missing:
        sys.exit(f"callbackd itself could not be measured: {missing['callbackd']}")
    found = {name: rounds for name, rounds in found.items() if name not in missing}
    print(f"\n{'':<20} {'accepted/s':>11} {'forwarded/s':>12} {'p50 ms':>8} {'p99 ms':>8}   callbackd forwards × as many (min–max)")
    results = []
    for name, rounds in found.items():
        ratios = [ours["forwarded"] / max(theirs["forwarded"], 1e-9) for ours, theirs in zip(found["callbackd"], rounds)]
        each = {field: median([figures[field] for figures in rounds]) for field in rounds[0]}
        results.append({"name": name, **each, "ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)})
        print(f"{name:<20} {each['accepted']:>11,.0f} {each['forwarded']:>12,.0f} {each['p50_ms']:>8.1f} {each['p99_ms']:>8.1f}"
              f"   {median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"
              + (f"; {each['share']:.0%} forwarded in five times the time" if each["share"] < 1 else ""))
    for name, why in missing.items():
        print(f"{name:<20} missing: {' '.join(why.split())[:300]}")
    written = {**where, "quick": options.quick, "peers": results, "missing": missing, "runs": harness.raw}
    for path in [TARGET / "peers.json", options.json]:
        if path:
            path.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    if options.picture:
        options.picture.write_text(picture.peers(written))


if __name__ == "__main__":
    main()
