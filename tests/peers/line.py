#!/usr/bin/env python3
"""A line between two network namespaces, as bad as it is told to be: the parent's and the one this runs in.

    unshare --net line.py NUMBER SEED

The parent's end is 10.77.NUMBER.1, this one's 10.77.NUMBER.2. Between them every packet goes through this program, which
holds it back, drops it, repeats it, lets others overtake it; so it needs no kernel module but tun. TCP on top is the
kernel's own. It lives as long as its standard input, which says how the line is, a JSON object a line, and answers each
with what went over it so far:

    {"in": {...}, "out": {...}, "port": N, "forget": true}

"in" is towards this end, "out" is back; what is not named is without fault. Of each: "delay" and "jitter" (milliseconds: from
one to their sum), "loss" and "twice" (percent), "rate" (bytes a second, with a small queue). With "port", only TCP packets from or to
it suffer. "forget": connections that were made before are never heard of again, as when a firewall has lost its table.
"""

import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
QUEUE_SECONDS = 0.5

number, seed = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
world = f"/proc/{os.getppid()}/ns/net"


def tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def ip(*words, inside=()):
    subprocess.run([*inside, "ip", *words], check=True)


def raise_end(name, last, inside=()):
    ip("addr", "add", f"10.77.{number}.{last}/30", "dev", name, inside=inside)
    ip("link", "set", name, "mtu", "1400", "up", inside=inside)


near, far = tun(f"near{number}"), tun("far")
ip("link", "set", "lo", "up")
ip("link", "set", f"near{number}", "netns", str(os.getppid()))
raise_end("far", 2)
raise_end(f"near{number}", 1, inside=("nsenter", f"--net={world}"))


def flow(packet):
    """Address and port of both sides, in one order for both directions; nothing for what is not TCP on IPv4."""
    if len(packet) < 24 or packet[0] >> 4 != 4 or packet[9] != 6:
        return None
    ports = (packet[0] & 15) * 4
    a = (packet[12:16], int.from_bytes(packet[ports : ports + 2], "big"))
    b = (packet[16:20], int.from_bytes(packet[ports + 2 : ports + 4], "big"))
    return (a, b) if a < b else (b, a)


class Way:
    def __init__(self, to):
        self.to, self.weather, self.free_at = to, {}, 0.0
        self.count = {"came": 0, "lost": 0, "twice": 0}

    def carry(self, packet, now, suffers):
        self.count["came"] += 1
        weather = self.weather if suffers else {}
        if rng.random() * 100 < weather.get("loss", 0):
            self.count["lost"] += 1
            return
        times = 1
        if rng.random() * 100 < weather.get("twice", 0):
            self.count["twice"] += 1
            times = 2
        start = now
        if rate := weather.get("rate"):
            if self.free_at - now > QUEUE_SECONDS:
                self.count["lost"] += 1
                return
            start = self.free_at = max(now, self.free_at) + len(packet) / rate
        for _ in range(times):
            pause = weather.get("delay", 0) + rng.random() * weather.get("jitter", 0)
            heapq.heappush(due, (start + pause / 1000, rng.random(), self.to, packet))


due, known, forgotten = [], set(), set()
ways = {near: Way(far), far: Way(near)}
port = None
print(json.dumps({"ready": True}), flush=True)
while True:
    now = time.monotonic()
    while due and due[0][0] <= now:
        _, _, to, packet = heapq.heappop(due)
        try:
            os.write(to, packet)
        except OSError:
            pass  # The other end is down.
    pause = max(0.0, due[0][0] - now) if due else None
    for ready in select.select([near, far, 0], [], [], pause)[0]:
        if ready == 0:
            line = sys.stdin.readline()
            if not line:
                sys.exit(0)
            said = json.loads(line)
            ways[near].weather, ways[far].weather = said.get("in", {}), said.get("out", {})
            port = said.get("port")
            if said.get("forget"):
                forgotten |= known
            print(json.dumps({"in": ways[near].count, "out": ways[far].count}), flush=True)
            continue
        for _ in range(64):
            try:
                packet = os.read(ready, 65536)
            except BlockingIOError:
                break
            connection = flow(packet)
            if connection:
                known.add(connection)
                if connection in forgotten:
                    continue
            suffers = port is None or (connection and port in (connection[0][1], connection[1][1]))
            ways[ready].carry(packet, time.monotonic(), suffers)
