"""What measurements share: a folder on disk, what they start and stop, the daemon, and who sends and answers.

Loopback only. All that was started is ended by its process id, also when a measurement fails or is interrupted.
Python's own library alone.
"""

import atexit
import contextlib
import json
import os
import pathlib
import platform
import random
import resource
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SINK = "bench"
PATH = "/callbacks/media/bench-token"
TARGET.mkdir(parents=True, exist_ok=True)
# Not /tmp, which may be memory: a sync has to cost what it costs.
FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="bench.", dir=TARGET))
started = []
raw = []  # every single run, as it came


def _end(process, patience=30):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stop_since(count):
    """Stops all that was started after the first so many."""
    while len(started) > count:
        _end(started.pop())


def _cleanup():
    stop_since(0)
    shutil.rmtree(FOLDER, ignore_errors=True)


atexit.register(_cleanup)
for _signal in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_signal, lambda number, _: sys.exit(128 + number))
# Ten thousand connections, on either side.
for _files in (65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_files, _files))
        break
    except (ValueError, OSError):
        continue  # no more than what this process was given


def say(text):
    print(text, file=sys.stderr, flush=True)


def need(command, package):
    if shutil.which(command):
        return
    if os.geteuid() != 0:
        sys.exit(f"missing; run as root: apt-get install {package}")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": sys.stderr, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], check=True, **quiet)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=True, **quiet)


@contextlib.contextmanager
def attempt(what, failed):
    """Goes on when something does not work, and keeps the reason; unless it is that somebody wants an end."""
    begun = len(started)
    try:
        yield
    except (Exception, SystemExit) as e:
        if isinstance(e, SystemExit) and not isinstance(e.code, str):
            raise
        stop_since(begun)
        failed[what] = str(e)
        say(f"  {what} FAILED: {e}")


def build(names=("bench",), profile="release", features=""):
    """Builds the daemon and the programs of benches/; returns their paths."""
    cargo = ["cargo", "build", "--locked", "--profile", profile, "--message-format=json-render-diagnostics"]
    cargo += ["--features", features] * bool(features)
    wanted = ["--bin", "callbackd", *(word for name in names for word in ("--bench", name))]
    built = subprocess.run(cargo + wanted, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in built.stdout.splitlines()]
    return {line["target"]["name"]: line["executable"] for line in lines if line.get("executable")}


def where():
    """Of what, on what and when."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        commit = found.stdout.strip() or None
    except FileNotFoundError:
        commit = None
    machine = {"cpus": os.cpu_count(), "kernel": platform.release().split("-")[0], "arch": platform.machine()}
    load = os.getloadavg()[0]
    if load > 1:
        say(f"other things run here (load {load:.1f}): ratios are still in turn, but will spread")
    return {"date": time.strftime("%Y-%m-%d"), "load": round(load, 1), "commit": commit, "machine": machine}


def free_port():
    """Below those that the kernel gives to connections, so that none takes it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def until(what, fact, seconds=60, every=0.02):
    """Asks again and again until there is an answer."""
    deadline = time.monotonic() + seconds
    while True:
        found = fact()
        if found:
            return found
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(every)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


class Process:
    """Something that was started, with its log; ended at the end of a `with`."""

    def __init__(self, name, command, **more):
        self.log = FOLDER / f"{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)
        started.append(self.process)

    def fail(self, why):
        tail = self.log.read_text(errors="replace")[-4000:]
        sys.exit(f"{why}\n{tail}")

    def wait_for(self, port, seconds=60):
        def fact():
            if self.process.poll() is not None:
                self.fail(f"{self.process.args[0]} ended with {self.process.returncode}")
            return listens(port)

        until(f"{self.process.args[0]} listens", fact, seconds)
        return self

    def memory(self, field):
        """`VmRSS` (now) or `VmHWM` (at most), in MiB."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024

    def stop(self):
        _end(self.process)
        started.remove(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Bench:
    """The program `bench` (benches/bench/)."""

    def __init__(self, paths):
        self.executable = paths["bench"]

    def run(self, *words):
        done = subprocess.run([self.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, timeout=900)
        if done.returncode != 0:
            sys.exit(f"bench {' '.join(map(str, words))} failed")
        figures = json.loads(done.stdout)
        raw.append({"ran": [str(word).replace(f"{FOLDER}/", "") for word in words], **figures})
        return figures

    def send(self, url, connections=64, seconds=None, count=None, rate=None):
        words = ["send", "--to", url, "--connections", connections]
        for name, value in (("seconds", seconds), ("count", count), ("rate", rate)):
            words += [f"--{name}", value] if value is not None else []
        return self.run(*words)


class Answer(Process):
    """The bare hyper server."""

    def __init__(self, bench, under=(), keep=None, rows=False, read=False, forward=None):
        self.port = free_port()
        words = ["--keep", keep] if keep is not None else []
        words += ["--rows"] * rows + ["--read"] * read + (["--forward", forward] if forward is not None else [])
        super().__init__("answer", [*under, bench.executable, "answer", "--listen", f"127.0.0.1:{self.port}", *words])
        self.url = f"http://127.0.0.1:{self.port}/"
        self.wait_for(self.port)

    def posted(self):
        return json.loads(get(self.url))

    def posts(self):
        return self.posted()["posts"]


def configure(store, to=None, server=""):
    """A configuration with one COS source, all of it routed to the sink at `to`, if there is one; its path."""
    text = f"""
[server]
{server}
[store]
url = "sqlite:{store}"
[log]
level = "warn"
[sources.media]
kind = "cos_workflow"
path = "/callbacks/media"
token = "bench-token"
"""
    if to is not None:
        text += f"""
[sinks.{SINK}]
kind = "webhook"
url = "{to}"
[[routes]]
from = ["media"]
to = ["{SINK}"]
"""
    path = FOLDER / f"{pathlib.Path(store).stem}.toml"
    path.write_text(text)
    return path


class Daemon(Process):
    """callbackd, ready, as `configure` has it, or with another configuration, of which store and addresses are put aside."""

    path = None  # of what was built

    def __init__(self, store, to=None, server="", config=None, environment=None, under=()):
        self.store = pathlib.Path(store)
        self.port, self.admin = free_port(), free_port()
        config = config or configure(self.store, to, server)
        self.url = f"http://127.0.0.1:{self.port}{PATH}"
        notify = FOLDER / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            ready.settimeout(120)
            begun = time.monotonic()
            over = {
                "NOTIFY_SOCKET": str(notify), "CALLBACKD__STORE__URL": f"sqlite:{self.store}",
                "CALLBACKD__SERVER__LISTEN": f"127.0.0.1:{self.port}", "CALLBACKD__ADMIN__LISTEN": f"127.0.0.1:{self.admin}"}
            super().__init__("callbackd", [*under, Daemon.path, "serve", "--config", config],
                             env={**os.environ, **over, **(environment or {})})
            try:
                while b"READY=1" not in ready.recv(4096):
                    pass
            except TimeoutError:
                self.fail("callbackd did not become ready")
            self.ready_ms = (time.monotonic() - begun) * 1000

    def sink(self, verb):
        """Pauses or resumes it."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}/api/v1/sinks/{SINK}/{verb}", method="POST")
        urllib.request.urlopen(request, timeout=60).close()

    @contextlib.contextmanager
    def watched(self, looks, listens):
        """While somebody looks at it each second, and listens to what happens for so many seconds."""
        over = threading.Event()

        def look():
            while not over.wait(1):
                for path in ("", "executions", "deliveries", "metrics"):
                    get(f"http://127.0.0.1:{self.admin}/{path}")

        def listen():
            url = f"http://127.0.0.1:{self.admin}/api/v1/stream?for={listens}s"
            with urllib.request.urlopen(url, timeout=60) as told:
                while told.read1(1 << 20):
                    pass

        threads = [threading.Thread(target=each) for each, wanted in ((look, looks), (listen, listens)) if wanted]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def backlog(self):
        """Deliveries that are open."""
        items = json.loads(get(f"http://127.0.0.1:{self.admin}/api/v1/sinks"))["items"]
        return next((item["backlog"] for item in items if item["name"] == SINK), 0)


def ask(store, sql):
    """One figure out of a store."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as conn:
        return conn.execute(sql).fetchone()[0]


def files(store):
    return [path for path in pathlib.Path(store).parent.glob(pathlib.Path(store).name + "*")]


def remove(store):
    for path in files(store):
        path.unlink(missing_ok=True)


def size(store):
    """Of a store that nobody has open: what is still in its log, which has a fixed size, is brought home before."""
    with contextlib.closing(sqlite3.connect(store)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store.stat().st_size


def median(values):
    return statistics.median(values)
