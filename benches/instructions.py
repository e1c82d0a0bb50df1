#!/usr/bin/env python3
"""User-space instructions per durable callback, counted by callgrind: the difference between a long and a short run of the
same load, so that start and stop do not count. Unlike a time, it is nearly the same on every machine.

    instructions.py [--connections N…] [--limit N]

On one connection each callback is a commit of its own; on 64, a commit holds what came together. Fails if a count is over the
limit. Sent is what was sent before: for counting, not for timing.
"""

import argparse
import random
import re
import socket
import sys

import harness
from harness import FOLDER, PATH, ROOT, Answer, Daemon, need, remove

SHORT, LONG = 200, 1200
PARTS = (ROOT / "benches/callback.xml").read_text(encoding="ascii").rstrip().split("{id}")


def body(ids):
    return "".join(part + (f"{ids.getrandbits(128):032x}" if part is not PARTS[-1] else "") for part in PARTS).encode()


def send(port, callbacks, connections, word):
    """On each connection one request is under way at a time; all send, then all answers are read: a 200 with `word`."""
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(connections)]
    answers = [s.makefile("rb") for s in sockets]
    ids = random.Random(1)  # the same ids in each run, so that runs can be compared
    while callbacks:
        batch = min(callbacks, connections)
        for s in sockets[:batch]:
            content = body(ids)
            head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/xml\r\n"
            s.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        for answer in answers[:batch]:
            read_answer(answer, word)
        callbacks -= batch
    for s in answers + sockets:
        s.close()


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


def whole(callbacks, connections, bench=None, **how):
    """The instructions of a whole run."""
    out, store = FOLDER / "callgrind.out", FOLDER / "counted.db"
    under = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    with Answer(bench, under=under, **how) if bench else Daemon(store, under=under) as process:
        send(process.port, callbacks, connections, b"" if bench else b'"accepted"')
    remove(store)
    if "keep" in how:
        remove(how["keep"])
    return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M)[1])


def count(connections, bench=None, **how):
    """Instructions per callback: the daemon's, or those of the bare hyper server, told how to work."""
    need("valgrind", "valgrind")
    few, many = (whole(callbacks, connections, bench, **how) for callbacks in (SHORT, LONG))
    return (many - few) // (LONG - SHORT)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    Daemon.path = harness.build(())["callbackd"]
    for connections in options.connections:
        found = count(connections)
        print(f"{found} instructions per callback ({connections} connections)", flush=True)
        if options.limit is not None and found > options.limit:
            sys.exit(f"instructions.py: more than {options.limit}")


if __name__ == "__main__":
    main()
