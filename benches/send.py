"""Sends callbacks over kept-alive connections and checks that each is acknowledged: for counting, not for timing.

    send.py HOST:PORT PATH CALLBACKS CONNECTIONS

On each connection one request is under way at a time; all connections send, then all answers are read.
"""

import random
import socket
import sys

TASK = (
    "<Tasks><Type>{kind}</Type><CreateTime>2020-12-01 11:00:41+0800</CreateTime>"
    "<EndTime>2020-12-01 11:01:03+0800</EndTime><State>Success</State><JobId>j{job:032x}</JobId>"
    "<Name>{kind}_1600413767353</Name><TemplateId>{template}</TemplateId>"
    "<TemplateName>{kind} 720p</TemplateName></Tasks>"
)
BODY = (
    "<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>i{run:032x}</RunId>"
    "<BucketId>examplebucket-1250000000</BucketId><Object>videos/game.mp4</Object>"
    "<CosHeaders><Key>x-cos-meta-owner</Key><Value>media-team</Value></CosHeaders>"
    "<WorkflowId>w29ba54d02b7340dd9fb44eb5beb786b9</WorkflowId><WorkflowName>transcode</WorkflowName>"
    "<CreateTime>2020-12-01 11:00:41+0800</CreateTime><State>Success</State>{tasks}</WorkflowExecution></Response>"
)


def body(ids):
    tasks = TASK.format(kind="Transcode", job=ids.getrandbits(128), template="t04e1ab86554984f1aa17c062fbf6c007c")
    tasks += TASK.format(kind="Snapshot", job=ids.getrandbits(128), template="t07740e32081b44ad7a0aea03adcffd54a")
    return BODY.format(run=ids.getrandbits(128), tasks=tasks).encode()


def main():
    address, path, callbacks, connections = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    host, port = address.rsplit(":", 1)
    sockets = [socket.create_connection((host, int(port)), timeout=60) for _ in range(connections)]
    answers = [s.makefile("rb") for s in sockets]
    ids = random.Random(1)  # the same ids in each run, so that runs can be compared
    left = callbacks
    while left:
        batch = min(left, connections)
        for s in sockets[:batch]:
            content = body(ids)
            head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/xml\r\n"
            s.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        for answer in answers[:batch]:
            read_answer(answer)
        left -= batch


def read_answer(answer):
    status = answer.readline()
    length = 0
    while (line := answer.readline().strip()):
        name, value = line.split(b":", 1)
        if name.lower() == b"content-length":
            length = int(value)
    content = answer.read(length)
    if b" 200 " not in status or b'"accepted"' not in content:
        sys.exit(f"not acknowledged: {status!r} {content!r}")


main()
