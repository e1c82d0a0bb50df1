#!/usr/bin/env python3
"""The container's image, run by crun as its own description says: another user, no capability, a read-only root, no
network but loopback.

    image.py ARCHIVE      ARCHIVE: what systemd/image.sh has made

Prints one `ok - …` line for each thing that holds. Needs root, buildah's crun, and iproute2."""

import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BODY = (TOP / "benches/callback.xml").read_text(encoding="ascii")
TOKEN = "a-token-of-this-test"
STORE, CONFIG = "/var/lib/callbackd", "/etc/callbackd/callbackd.toml"
# A name that /etc/hosts alone knows, and certificates, which are read before anything is called.
CONFIGURATION = """
[server]
listen = "0.0.0.0:8480"
[store]
url = "sqlite:/var/lib/callbackd/callbackd.db"
[sources.media]
kind = "cos_workflow"
path = "/callbacks/media"
token = { file = "/run/secrets/media" }
[sinks.peer]
kind = "webhook"
url = "http://peer.test:8490/"
[sinks.far]
kind = "webhook"
url = "https://peer.test:1/"
[[routes]]
from = ["media"]
to = ["peer", "far"]
"""


def ok(text):
    print(f"ok - {text}", flush=True)


def fail(text):
    sys.exit(f"not ok - {text}")


def soon(what, fact, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        if time.monotonic() > deadline:
            fail(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return found


def unpack(archive, root):
    """Its layers into `root`, with their owners; returns its description."""
    with tarfile.open(archive) as tar:
        def blob(digest):
            content = tar.extractfile(f"blobs/{digest.replace(':', '/')}").read()
            assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
            return content
        index = json.load(tar.extractfile("index.json"))
        manifest = json.loads(blob(index["manifests"][0]["digest"]))
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob(layer["digest"])))) as files:
                files.extractall(root, numeric_owner=True)
        return json.loads(blob(manifest["config"]["digest"]))["config"]


class Container:
    """A container of the image; everything that it needs lies in a folder of its own."""

    def __init__(self, folder, description):
        self.folder, self.name, self.process = folder, f"callbackd-{os.getpid()}", None
        self.user = description["User"]
        user, group = map(int, self.user.split(":"))
        bound = {STORE: "store", "/run/secrets/media": "token", "/etc/hosts": "hosts"}
        if (folder / "callbackd.toml").exists():
            bound[CONFIG] = "callbackd.toml"
        mounts = [{"destination": to, "type": "bind", "source": str(folder / name),
                   "options": ["bind", "rw" if to == STORE else "ro"]} for to, name in bound.items()]
        spec = {
            "ociVersion": "1.0.0",
            "root": {"path": "root", "readonly": True},
            "process": {
                "user": {"uid": user, "gid": group}, "cwd": description["WorkingDir"], "env": description["Env"],
                "args": description["Entrypoint"] + description["Cmd"], "noNewPrivileges": True,
                "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted", "inheritable")},
            },
            # These two every runtime brings.
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                       *mounts],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
        }
        (folder / "config.json").write_text(json.dumps(spec), encoding="ascii")

    def crun(self, *words):
        return ["crun", "--cgroup-manager=disabled", "--root", str(self.folder / "crun"), *words]

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self.crun("run", "--bundle", str(self.folder), self.name),
                                            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        soon("the container is ready", self.ready)

    def ready(self):
        if self.process.poll() is not None:
            fail(f"it ended with {self.process.returncode}: {(self.folder / 'log').read_text()}")
        try:
            return ask(8481, "GET", "/readyz")[0] == 200
        except OSError:
            return False

    def do(self, *words):
        command = self.crun("exec", "--user", self.user, self.name, "/usr/bin/callbackd", *words)
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            fail(f"callbackd {' '.join(words)}: {done.stderr}")
        return done.stdout

    def stop(self, signal):
        subprocess.run(self.crun("kill", self.name, signal.removeprefix("SIG")), check=True)
        if self.process.wait(40) != 0:
            fail(f"{signal} ends it with {self.process.returncode}: {(self.folder / 'log').read_text()}")


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def told():
    """A peer; returns what it was told, so far."""
    bodies = []

    class Peer(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8490), Peer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return bodies


def test(archive, folder):
    root = folder / "root"
    root.mkdir()
    description = unpack(archive, root)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    if found != {"usr/bin/callbackd", "etc/callbackd/callbackd.toml", "etc/ssl/certs/ca-certificates.crt"}:
        fail(f"it holds {found}")
    if description["User"].startswith(("0", "root")) or description["StopSignal"] != "SIGTERM":
        fail(f"it says {description}")
    if list(description["Volumes"]) != [STORE] or list(description["ExposedPorts"]) != ["8480/tcp"]:
        fail(f"it says {description}")
    ok(f"the image holds {len(found)} files, and runs as {description['User']}")

    for name, content in {"token": TOKEN, "hosts": "127.0.0.1 localhost peer.test\n"}.items():
        (folder / name).write_text(content, encoding="ascii")
        (folder / name).chmod(0o444)
    # As a runtime fills a new volume: with what the image has there.
    owner = (root / STORE[1:]).stat()
    (folder / "store").mkdir(mode=0o700)
    os.chown(folder / "store", owner.st_uid, owner.st_gid)

    container = Container(folder, description)
    container.start()
    if ask(8480, "POST", "/callbacks/media", b"x")[0] != 404:
        fail("the configuration that comes with it lets somebody in")
    container.stop(description["StopSignal"])
    ok("it starts as it is, with a read-only root, and nobody can call it; SIGTERM ends it well")

    (folder / "callbackd.toml").write_text(CONFIGURATION, encoding="ascii")
    peer = told()
    container = Container(folder, description)
    container.start()
    status, content = ask(8480, "POST", f"/callbacks/media?token={TOKEN}", BODY.replace("{id}", "1"))
    if status != 200 or b'"accepted"' not in content:
        fail(f"a callback was answered {status}: {content!r}")
    if ask(8480, "POST", "/callbacks/media?token=wrong", b"x")[0] != 401:
        fail("somebody with a wrong token was let in")
    if "i1" not in "".join(soon("the peer is told", lambda: [body.decode() for body in peer])):
        fail(f"the peer was told {peer}")
    ok("a callback is acknowledged, kept, and told to a peer that only /etc/hosts knows")
    container.stop(description["StopSignal"])
    container.start()
    if [json.loads(line)["key"] for line in container.do("executions", "list", "--json").splitlines()] != ["i1"]:
        fail("acknowledged, but not there after a new start")
    container.stop(description["StopSignal"])
    log = (folder / "log").read_text(encoding="utf-8")
    if TOKEN in log or "certificate" in log.lower():
        fail(f"it says: {log}")
    ok("stopped and started again: what was acknowledged is there")


def main():
    if "--inside" not in sys.argv:
        # A network and mounts of its own, which go with it.
        os.execvp("unshare", ["unshare", "--mount", "--net", sys.executable, __file__, *sys.argv[1:], "--inside"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # crun looks at the machine's control groups, though it is told to leave them alone, and does not know all there are.
    subprocess.run(["mount", "-t", "tmpfs", "none", "/sys/fs/cgroup"], check=True)
    folder = Path(tempfile.mkdtemp())
    try:
        test(sys.argv[1], folder)
    finally:
        shutil.rmtree(folder)


main()
