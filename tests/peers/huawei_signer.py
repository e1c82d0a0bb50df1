"""Signs again, with Huawei Cloud's own SDK, what a daemon sends to a recorder on loopback. See huawei_signer.sh."""

import collections
import datetime
import http.server
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer

PATIENCE = 60
KEYS = {
    "plain": ("AKEXAMPLE0000000TEST", "SKEXAMPLE000000000000000000000000000TEST", None),
    "temporary": ("AKEXAMPLE0000000TEMP", "SK/EXAMPLE+0000=with%odd&characters", "TOKEN/EXAMPLE+" + "x" * 2000 + "=="),
}
PROJECT = "0123456789abcdef0123456789abcdef"
WORKSPACE = "11111111-2222-3333-4444-555555555555"
WORKFLOW = "66666666-7777-8888-9999-aaaaaaaaaaaa"
WORKFLOWS = f"/v1/{PROJECT}/workspaces/{WORKSPACE}/soc/workflows"
CALLBACK = """<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>ie4d9187d35dc11eb</RunId>
<BucketId>bucket</BucketId><Object>in/сбой 失败 ~*.mp4</Object><WorkflowName>Transcode</WorkflowName>
<State>Failed</State></WorkflowExecution></Response>"""

Recorded = collections.namedtuple("Recorded", "method target headers body")


class Recorder(http.server.BaseHTTPRequestHandler):
    """Takes what comes as SecMaster does; the first start of each key meets a busy gateway."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    recorded = []
    shown = collections.Counter()
    busy = set()

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = urllib.parse.urlsplit(self.path).path
        with self.lock:
            self.recorded.append(Recorded(self.command, self.path, self.headers, body))
            status, said = 200, {}
            access = self.headers["authorization"].split("Access=")[1].split(",")[0]
            if self.command == "POST" and access not in self.busy:
                self.busy.add(access)
                status, said = 503, {"error_code": "APIGW.0201", "error_msg": "Backend unavailable"}
            elif self.command == "POST":
                said = json.loads(body)
                self.shown[said["action_instance_id"]] = 0
            elif path == WORKFLOWS:
                said = {"success": True, "total": 1, "data": [{"id": WORKFLOW, "name": "Block", "enabled": True}]}
            elif path.rsplit("/", 1)[1] not in self.shown:
                status, said = 400, {"code": "SecMaster.20030005", "message": "not found"}
            else:
                self.shown[path.rsplit("/", 1)[1]] += 1
                word = "RUNNING" if self.shown[path.rsplit("/", 1)[1]] < 3 else "FINISHED"
                said = {"id": path.rsplit("/", 1)[1], "status": word}
        text = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


def signed_by_sdk(request, body, keys):
    """The Authorization header that Huawei's signer makes of the same request."""
    access, secret, _ = keys
    names = request.headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    target = urllib.parse.urlsplit(request.target)
    again = SdkRequest(
        method=request.method,
        schema="http",
        host=request.headers["host"],
        resource_path=target.path,
        query_params=urllib.parse.parse_qsl(target.query, keep_blank_values=True),
        header_params={name: request.headers[name] for name in names},
        body=body,
    )
    return Signer(BasicCredentials(access, secret, PROJECT)).sign(again).header_params["Authorization"]


def check(request):
    """Everything that has to hold of one request; what it was."""
    given = request.headers["authorization"]
    keys = next(keys for keys in KEYS.values() if keys[0] == given.split("Access=")[1].split(",")[0])
    assert signed_by_sdk(request, request.body, keys) == given, f"{request}\n{given}"
    assert signed_by_sdk(request, request.body + b" ", keys) != given, "another body is signed alike"
    assert request.headers.get("x-security-token") == keys[2], request.headers
    wanted = {"host", "x-project-id", "x-sdk-date"}
    wanted |= {"content-type"} if request.body else set()
    wanted |= {"x-security-token"} if keys[2] else set()
    assert set(given.split("SignedHeaders=")[1].split(",")[0].split(";")) == wanted, given
    date = datetime.datetime.strptime(request.headers["x-sdk-date"], "%Y%m%dT%H%M%SZ")
    date = date.replace(tzinfo=datetime.timezone.utc)
    assert abs(datetime.datetime.now(datetime.timezone.utc) - date) < datetime.timedelta(minutes=1), date
    path, _, query = request.target.partition("?")
    if query:
        return "ListWorkflows"
    return "CreateWorkflowInstance" if path.endswith("/instances") else "ShowAopWorkflowInstance"


def configuration(url):
    text = """
        server.listen = "127.0.0.1:0"
        admin.listen = "127.0.0.1:0"
        log.format = "json"
        [sources.media]
        kind = "cos_workflow"
        path = "/media"
        token = "a-token"
        [[routes]]
        from = ["media"]
        to = ["plain", "temporary"]
    """
    for name, (access, secret, token) in KEYS.items():
        text += f"""
            [sinks.{name}]
            kind = "secmaster"
            url = "{url}"
            project_id = "{PROJECT}"
            workspace_id = "{WORKSPACE}"
            workflow_id = "{WORKFLOW}"
            access_key = "{access}"
            secret_key = "{secret}"
            {f'security_token = "{token}"' if token else ""}
            follow = true
            follow_every = "20ms"
            retry_first = "20ms"
        """
    return text


def address(log):
    """Where the daemon that writes this log listens."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for line in log.read_text().splitlines():
            said = json.loads(line)
            if "server.listen" in said:
                return said["server.listen"]
        time.sleep(0.02)
    raise SystemExit("the daemon does not start")


def main(binary):
    recorder = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=recorder.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "callbackd.toml").write_text(configuration(f"http://127.0.0.1:{recorder.server_port}"))
        log = folder / "log"
        command = [binary, "serve", "--config", "callbackd.toml"]
        with log.open("w") as stderr:
            daemon = subprocess.Popen(command, cwd=folder, stderr=stderr, stdout=subprocess.DEVNULL)
        try:
            url = f"http://{address(log)}/media?token=a-token"
            urllib.request.urlopen(urllib.request.Request(url, CALLBACK.encode(), method="POST"), timeout=PATIENCE)
            probe = [binary, "check", "--probe", "--config", "callbackd.toml"]
            said = subprocess.run(probe, cwd=folder, timeout=PATIENCE, text=True, capture_output=True)
            assert said.returncode == 0, said
            until = time.monotonic() + PATIENCE
            while sum(count >= 3 for count in Recorder.shown.values()) < len(KEYS):
                assert time.monotonic() < until, "the instances are not followed to their end"
                time.sleep(0.02)
            with Recorder.lock:
                recorded = list(Recorder.recorded)
            checked = collections.Counter(check(request) for request in recorded)
            starts = [json.loads(request.body) for request in recorded if request.method == "POST"]
            assert any("сбой 失败" in request.body.decode() for request in recorded if request.method == "POST")
            ids = collections.Counter(start["action_instance_id"] for start in starts)
            assert sorted(ids.values()) == [2, 2], f"a repeated start keeps its id: {ids}"
            # Each key's first start meets a busy gateway, and before the next SecMaster is asked for the instance.
            expected = {"CreateWorkflowInstance": 4, "ShowAopWorkflowInstance": 8, "ListWorkflows": 2}
            assert checked == expected, f"{checked} instead of {expected}"
            for operation, count in sorted(checked.items()):
                print(f"ok - Huawei's signer signs {operation} alike ({count} requests, half with a security token)")
        except BaseException:
            print(log.read_text(), file=sys.stderr)
            raise
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE)


if __name__ == "__main__":
    main(sys.argv[1])
