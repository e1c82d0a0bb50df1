"""Sends callbacks over kept-alive connections and checks that each is acknowledged: for counting, not for timing.

    send.py HOST:PORT PATH CALLBACKS CONNECTIONS [WORD]

On each connection one request is under way at a time; all connections send, then all answers are read.
An acknowledgement is a 200 that has WORD in its body.
"""

import os
import random
import socket
import sys

with open(os.path.join(os.path.dirname(__file__), "callback.xml"), encoding="ascii") as file:
    PARTS = file.read().rstrip().split("{id}")


def body(ids):
    return "".join(part + (f"{ids.getrandbits(128):032x}" if part is not PARTS[-1] else "") for part in PARTS).encode()


def main():
    address, path, callbacks, connections = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    word = sys.argv[5].encode() if len(sys.argv) > 5 else b""
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
            read_answer(answer, word)
        left -= batch


def read_answer(answer, word):
    status = answer.readline()
    length = 0
    while (line := answer.readline().strip()):
        name, value = line.split(b":", 1)
        if name.lower() == b"content-length":
            length = int(value)
    content = answer.read(length)
    if b" 200 " not in status or word not in content:
        sys.exit(f"not acknowledged: {status!r} {content!r}")


main()
