"""Runs Schemathesis against a daemon with realistic contents. See openapi.sh."""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 60
# What one run may take; it mostly needs a tenth of that.
RUN_SECONDS_MAX = 600
TOKEN = "hush-adm1n"
SEED = os.environ.get("SEED") or "2026"

# How much is made up; and the stream, which ends when there is nothing more to tell.
SETTINGS = """
continue-on-failure = true
request-timeout = 30
wait-for-schema = 60
[generation]
max-examples = 10
database = "none"
[warnings]
enabled = false
[[operations]]
include-operation-id = "listen"
max-stream-events = 50
request-timeout = 1
parameters = { "query.for" = "0s", "query.since" = "1d" }
"""


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes a third, refuses a third for good, and a third for now."""

    count = 0

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        Sink.count += 1
        self.send_response([200, 400, 503][Sink.count % 3])
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def configuration(url, token):
    return f"""
        server.listen = "127.0.0.1:0"
        admin.listen = "127.0.0.1:0"
        {f'admin.token = "{token}"' if token else ""}
        log.format = "json"
        [sources.media]
        kind = "cos_workflow"
        path = "/media"
        token = "a-token"
        [sources.portal]
        kind = "port_action"
        path = "/portal"
        secret = "a-secret"
        [sinks.all]
        kind = "webhook"
        url = "{url}/all"
        [sinks.latest]
        kind = "webhook"
        url = "{url}/latest"
        coalesce = true
        [[routes]]
        from = ["media", "portal"]
        to = ["all", "latest"]
    """


class Daemon:
    def __init__(self, binary, home, text):
        self.binary, self.home = binary, home
        (home / "callbackd.toml").write_text(text)
        (home / "callbackd.toml").chmod(0o600)
        self.log = open(home / "log", "w+")
        self.process = subprocess.Popen([binary, "serve", "--config", "callbackd.toml"], cwd=home, stderr=self.log)
        deadline = time.monotonic() + PATIENCE
        while True:
            lines = [json.loads(line) for line in (home / "log").read_text().splitlines() if line.startswith("{")]
            begun = [line for line in lines if "admin.listen" in line]
            if begun:
                self.listen, self.admin = begun[0]["server.listen"], begun[0]["admin.listen"]
                return
            assert self.process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.02)

    def fill(self):
        """The fixtures, and what is not understood. Not every result is expected: they meet in one store."""
        for kind in ("cos_workflow", "port_action"):
            command = [self.binary, "replay", TOP / "fixtures" / kind, "--config", "callbackd.toml"]
            command += ["--to", f"http://{self.listen}"]
            subprocess.run(command, cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        for body in (b"not XML", b"<Response/>"):
            urllib.request.urlopen(urllib.request.Request(f"http://{self.listen}/media?token=a-token", body), timeout=PATIENCE)

    def get(self, path, token):
        request = urllib.request.Request(f"http://{self.admin}{path}")
        if token:
            request.add_header("authorization", f"Bearer {token}")
        return json.load(urllib.request.urlopen(request, timeout=PATIENCE))

    def end(self):
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0


def check(binary, schemathesis, url, token):
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        daemon = Daemon(binary, home, configuration(url, token))
        try:
            daemon.fill()
            kept = {noun: len(daemon.get(f"/api/v1/{noun}", token)["items"]) for noun in ("executions", "receipts", "deliveries")}
            assert min(kept.values()) > 20, kept
            settings = SETTINGS
            if token:
                settings += f'[auth.openapi]\ntoken = {{ bearer = "{token}" }}\n'
            (home / "schemathesis.toml").write_text(settings)
            # From a file: of what it loads from the daemon, it leaves out the operation that it loaded.
            document = daemon.get("/openapi.json", token)
            if token:
                document["security"] = [{"token": []}]
            (home / "openapi.json").write_text(json.dumps(document))
            command = [schemathesis, "--config-file", "schemathesis.toml", "--no-color", "run", "openapi.json"]
            command += ["--url", f"http://{daemon.admin}", "--seed", SEED]
            done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
            said = done.stdout + done.stderr
            assert done.returncode == 0, f"{said}\nSEED={SEED} shows it again"
            operations = sum(len(path) for path in document["paths"].values())
            assert f"{operations} selected / {operations} total" in said and f"Tested: {operations}" in said, said
            cases = next(line.split()[0] for line in said.splitlines() if " generated, " in line)
            return f"{operations} operations, {cases} requests", kept
        except BaseException:
            sys.stderr.write((home / "log").read_text()[-4000:])
            raise
        finally:
            daemon.end()


def main():
    binary, schemathesis = sys.argv[1:]
    sink = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{sink.server_address[1]}"
    for token in (None, TOKEN):
        begun = time.monotonic()
        asked, kept = check(binary, schemathesis, url, token)
        took = time.monotonic() - begun
        print(f"ok - {asked}, {'with' if token else 'without'} a token, over {kept}: as described (seed {SEED}, {took:.0f} s)")


main()
