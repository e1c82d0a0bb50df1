"""A daemon under a little work, and what real readers of metrics make of its figures. See prometheus.sh."""

import contextlib
import http.server
import json
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

PATIENCE = 60
TOKEN = "hunter2-callback-token"
ADMIN = "hunter2-admin-token"
CALLBACK = """<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>{run}</RunId>
<BucketId>bucket</BucketId><Object>in/clip.mp4</Object><WorkflowName>Transcode</WorkflowName>
<State>Success</State></WorkflowExecution></Response>"""
top = pathlib.Path(__file__).resolve().parents[2]


class Taker(http.server.BaseHTTPRequestHandler):
    """Takes everything."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def ask(url, body=None, headers=None):
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read().decode()


def soon(what, look):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def free_port():
    """Below those that the kernel gives to connections, so that none takes it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


def begin(folder, binary, taker):
    (folder / "callbackd.toml").write_text(f"""
server.listen = "127.0.0.1:0"
admin = {{ listen = "127.0.0.1:0", token = "{ADMIN}" }}
log.format = "json"
store.url = "sqlite:{folder}/callbackd.db"
sources.media = {{ kind = "cos_workflow", path = "/callbacks/media", token = "{TOKEN}" }}
sinks.any = {{ kind = "webhook", url = "http://127.0.0.1:{taker}/" }}
sinks.gone = {{ kind = "webhook", url = "http://127.0.0.1:{free_port()}/" }}
routes = [{{ from = ["media"], to = ["any", "gone"] }}]
""")
    (folder / "callbackd.toml").chmod(0o600)
    log = open(folder / "log", "w")
    daemon = subprocess.Popen([binary, "serve", "--config", folder / "callbackd.toml"], stderr=log)

    def addresses():
        for line in (folder / "log").read_text().splitlines():
            if '"server.listen"' in line and line.endswith("}"):
                line = json.loads(line)
                return line["server.listen"], line["admin.listen"]

    return daemon, *soon("the daemon runs", addresses)


def openmetrics(admin):
    """What Prometheus' own strict parser reads: the value of each sample."""
    accept = "application/openmetrics-text; version=1.0.0"
    status, headers, text = ask(f"http://{admin}/metrics", headers={"accept": accept, "authorization": f"Bearer {ADMIN}"})
    assert status == 200 and headers["content-type"].startswith("application/openmetrics-text"), (status, headers)
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("callbackd_") and family.documentation, family
        for sample in family.samples:
            samples[(sample.name, *sorted(sample.labels.items()))] = sample.value
    return samples


def main():
    binary = sys.argv[1]
    taker = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=taker.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        daemon, listen, admin = begin(folder, binary, taker.server_address[1])
        prometheus = None
        try:
            for run in ["a", "b", "c", "a"]:
                status, _, said = ask(f"http://{listen}/callbacks/media/{TOKEN}", CALLBACK.format(run=run).encode())
                assert status == 200, said
            assert ask(f"http://{listen}/callbacks/media/wrong", b"")[0] == 401
            told = ("callbackd_attempts_total", ("outcome", "delivered"), ("sink", "any"))
            samples = soon("three are delivered", lambda: (s := openmetrics(admin))[told] == 3 and s)
            receipts = "callbackd_receipts_total"
            assert samples[(receipts, ("outcome", "accepted"), ("source", "media"))] == 3, samples
            assert samples[(receipts, ("outcome", "duplicate"), ("source", "media"))] == 1, samples
            assert samples[("callbackd_refusals_total", ("reason", "unauthorized"), ("source", "media"))] == 1, samples
            print("ok - Prometheus' Python client: strict OpenMetrics, with the figures of what happened")

            bearer = {"authorization": f"Bearer {ADMIN}"}
            status, headers, classic = ask(f"http://{admin}/metrics", headers={"accept": "text/plain", **bearer})
            assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4"), headers
            checked = subprocess.run(["promtool", "check", "metrics"], input=classic, text=True, capture_output=True)
            assert checked.returncode == 0 and not checked.stderr, checked
            assert ask(f"http://{admin}/metrics")[0] == 401
            print("ok - promtool: the older format, and nothing to complain of")

            port = free_port()
            (folder / "token").write_text(ADMIN)
            (folder / "prometheus.yml").write_text(f"""
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: ["{top}/config/alerts.yml"]
scrape_configs:
  - job_name: callbackd
    authorization: {{ credentials_file: "{folder}/token" }}
    static_configs: [{{ targets: ["{admin}"] }}]
""")
            said = open(folder / "prometheus.log", "w")
            prometheus = subprocess.Popen(
                ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                 f"--web.listen-address=127.0.0.1:{port}"],
                stdout=said, stderr=said,
            )

            def look(path, **query):
                try:
                    status, _, text = ask(f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}")
                except OSError:
                    return None
                return json.loads(text)["data"] if status == 200 else None

            def target():
                targets = (look("targets") or {}).get("activeTargets") or []
                return next((target for target in targets if target["health"] != "unknown"), None)

            target = soon("a scrape", target)
            assert target["health"] == "up", target
            kept = 'sum(callbackd_receipts_total{source="media"})'
            values = soon("the figures", lambda: (found := look("query", query=kept)) and found["result"])
            assert values[0]["value"][1] == "4", values
            print("ok - Prometheus scrapes it, with a token")

            def rules():
                groups = (look("rules") or {}).get("groups") or []
                rules = [rule for group in groups for rule in group["rules"]]
                return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

            wrong = [rule for rule in soon("the rules are evaluated", rules) if rule["health"] != "ok"]
            assert not wrong, wrong
            print("ok - Prometheus evaluates every rule")

            dashboard = json.loads((top / "config/grafana.json").read_text())
            queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
            silent = {"confirmations", "given_up", "commit_failures"}
            for query in queries:
                query = query.replace("$instance", ".*").replace("$__rate_interval", "1m")
                # What happens seldom may have nothing to show; everything else has.
                needs = not any(word in query for word in silent) and "> 0" not in query
                soon(query, lambda: (found := look("query", query=query)) is not None and (found["result"] or not needs))
            assert len(queries) > 20, len(queries)
            print(f"ok - Prometheus answers all {len(queries)} queries of the dashboard")
        except BaseException:
            for name in ["log", "prometheus.log"]:
                if (folder / name).exists():
                    print(f"--- {name}\n{(folder / name).read_text()[-5000:]}\n---", file=sys.stderr)
            raise
        finally:
            for process in filter(None, [prometheus, daemon]):
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=PATIENCE)


main()
