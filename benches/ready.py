"""How long a daemon takes from its start to READY=1, and how much memory it holds when it then has nothing to do.

    ready.py STARTS IDLE_SECONDS FOLDER COMMAND...

Speaks sd_notify(3) with it. Each start is in an empty FOLDER. Prints the median and the longest time in milliseconds,
and the most resident memory (VmRSS) in KiB, IDLE_SECONDS after each start.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time


def start(folder, idle, command):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    address = os.path.abspath(folder) + ".notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        notify.settimeout(30)
        begun = time.monotonic()
        daemon = subprocess.Popen(command, cwd=folder, env={**os.environ, "NOTIFY_SOCKET": address})
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            ready_ms = (time.monotonic() - begun) * 1000
            time.sleep(idle)
            with open(f"/proc/{daemon.pid}/status") as status:
                rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
        finally:
            daemon.terminate()
            daemon.wait(60)
            os.unlink(address)
    return ready_ms, rss


def main():
    starts, idle, folder, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]
    figures = [start(folder, idle, command) for _ in range(starts)]
    times = [ready_ms for ready_ms, _ in figures]
    print(f"{statistics.median(times):.1f} {max(times):.1f} {max(rss for _, rss in figures)}")


main()
