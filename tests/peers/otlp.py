"""What otlp.sh checks. Argument: a callbackd that was built with otlp."""

import base64
import json
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = (
    "<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>游戏 1</RunId><BucketId>b-1</BucketId>"
    "<Object>in/a.mp4</Object><WorkflowId>w1</WorkflowId><WorkflowName>test</WorkflowName>"
    "<CreateTime>2020-12-01 11:00:41+0800</CreateTime><State>Success</State></WorkflowExecution></Response>"
)
requests = []


class Collector(BaseHTTPRequestHandler):
    """Takes all: what is sent is judged below. It is the webhook's receiver, too, and refuses that."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces":
            requests.append(body)
        self.send_response(200 if self.path == "/v1/traces" else 422)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def hold(what, holds):
    if not holds:
        sys.exit(f"not ok - {what}")
    print(f"ok - {what}")


def decoded(body):
    """By the definitions; OTLP alone writes ids in hex where the JSON of protobuf has base64."""
    whole = json.loads(body)
    for resource in whole["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key, size in (("traceId", 16), ("spanId", 8), ("parentSpanId", 8)):
                    assert re.fullmatch(f"[0-9a-f]{{{2 * size}}}", span[key]), span
                    span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return json_format.Parse(json.dumps(whole), ExportTraceServiceRequest(), ignore_unknown_fields=False)


collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=collector.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{collector.server_port}"
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "callbackd.toml").write_text(
        f"""server.listen = "127.0.0.1:0"
admin.listen = "127.0.0.1:0"
log.format = "json"
otlp.endpoint = "{url}"
sources.media = {{ kind = "cos_workflow", path = "/in", token = "t0ken" }}
sinks.hook = {{ kind = "webhook", url = "{url}/hook" }}
routes = [{{ from = ["media"], to = ["hook"] }}]
"""
    )
    daemon = subprocess.Popen(
        [sys.argv[1], "serve", "--config", "callbackd.toml"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    try:
        log = map(json.loads, daemon.stderr)
        listen = next(line["server.listen"] for line in log if line.get("server.listen"))
        headers = {"traceparent": f"00-{TRACE}-{SENDER}-01", "tracestate": "congo=1"}
        request = urllib.request.Request(f"http://{listen}/in/t0ken", BODY.encode(), headers)
        hold("the callback is taken", urllib.request.urlopen(request, timeout=20).status == 200)
        # The webhook is refused, which makes a dead letter: nothing more is tried.
        next(line for line in log if "a dead letter" in line.get("message", ""))
    finally:
        daemon.terminate()
        daemon.stderr.read()
        daemon.wait(60)

spans = []
for body in requests:
    for resource in decoded(body).resource_spans:
        named = {a.key: a.value.string_value for a in resource.resource.attributes}
        hold("the resource is callbackd, with its version", named["service.name"] == "callbackd" and named["service.version"])
        spans += [span for scope in resource.scope_spans for span in scope.spans]
by_kind = {span.kind: span for span in spans}
hold("a receipt and a try", len(spans) == 2 and set(by_kind) == {Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT})
receipt, attempt = by_kind[Span.SPAN_KIND_SERVER], by_kind[Span.SPAN_KIND_CLIENT]
hold("both in the sender's trace", {span.trace_id.hex() for span in spans} == {TRACE})
hold("the receipt below the sender's span", receipt.parent_span_id.hex() == SENDER and receipt.trace_state == "congo=1")
hold("the try below the receipt", attempt.parent_span_id == receipt.span_id != attempt.span_id)
hold("the failure is one", attempt.status.code == Status.STATUS_CODE_ERROR and not receipt.HasField("status"))
values = {a.key: a.value for a in attempt.attributes}
hold("numbers are numbers", values["http.response.status_code"].int_value == 422)
hold("texts are texts", values["execution.key"].string_value == "游戏 1" and values["attempt.outcome"].string_value == "reject")
hold("times are in order", all(0 < span.start_time_unix_nano <= span.end_time_unix_nano for span in spans))
