#!/usr/bin/env python3
"""Runs inside the container, as root: the .deb is installed, called, exchanged under load, removed and purged, and then
the .rpm likewise; see packages.sh. Prints one `ok - …` line for each thing that holds, or what failed with the daemon's
journal."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

FIRST, SECOND, RPM = "/opt/first.deb", "/opt/second.deb", "/opt/callbackd.rpm"
CONFIG = Path("/etc/callbackd/callbackd.toml")
UNITS = ("callbackd.socket", "callbackd.service")
TOKEN = "a-token-of-this-test"
# Where others write meanwhile, or what was there is no concern of the package.
ELSEWHERE = ("/proc", "/sys", "/dev", "/run", "/tmp", "/opt", "/var/tmp", "/var/log", "/var/cache", "/var/lib/dpkg")
BODY = Path("/opt/callback.xml").read_text(encoding="ascii")


def ok(text):
    print(f"ok - {text}", flush=True)


def fail(text):
    print(f"not ok - {text}", flush=True)
    for command in (["systemctl", "--no-pager", "--full", "--lines=0", "status", *UNITS],
                    ["journalctl", "--no-pager", "-o", "short-precise", "-n", "60", "-u", "callbackd.service",
                     "--grep", r"^(?!\{)"]):  # not what the sink prints
        print(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    sys.exit(1)


def run(*command, code=0):
    """What it prints; a failure of the test when it ends otherwise than with `code`."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                          env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode != code:
        fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def state(what, unit):
    return run("systemctl", "show", "--value", "-p", what, unit).strip()


def soon(what, fact, seconds=60):
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            fail(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def runs():
    return all(state("ActiveState", unit) == "active" for unit in UNITS)


def files():
    """Every path, but those of ELSEWHERE."""
    found = set()
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if not os.path.join(folder, name).startswith(ELSEWHERE)]
        found.update(os.path.join(folder, name) for name in folders + names)
    return found


def post(connection, execution):
    """The status, and what became of it."""
    path = f"/callbacks/media?token={TOKEN}"
    connection.request("POST", path, BODY.replace("{id}", execution), {"Content-Type": "application/xml"})
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, content


def door():
    return http.client.HTTPConnection("127.0.0.1", 8480, timeout=60)


def accepted(execution):
    status, content = post(door(), execution)
    if status != 200 or b'"accepted"' not in content:
        fail(f"{execution} was answered {status}: {content!r}")


class Sender(threading.Thread):
    """Sends one callback after the other, and each until it is acknowledged, as a real one does: each over a connection
    of its own; or from far away, where the first byte comes a while after the connection; or over one that it keeps."""

    def __init__(self, name, kind):
        super().__init__(daemon=True)
        self.sender, self.keeps, self.is_far = name, kind == "keeps", kind == "far"
        self.acknowledged, self.failed, self.enough = [], [], threading.Event()

    def run(self):
        connection, number = door(), 0
        while not self.enough.is_set():
            number += 1
            execution = f"{self.sender}-{number}"
            while True:
                if not self.keeps:
                    connection.close()
                old = connection.sock is not None
                try:
                    if self.is_far:
                        connection.connect()
                        time.sleep(0.1)
                    status, _ = post(connection, execution)
                    if status == 200:
                        break
                    self.failed.append(f"answered {status}")
                except (OSError, http.client.HTTPException) as e:
                    connection.close()
                    self.failed.append(f"{type(e).__name__}{' on a connection that was open' if old else ''}")
                if self.enough.is_set():
                    return
            self.acknowledged.append(execution)


def exchanged_under_load(name, *commands):
    """Exchanges the package by each command while senders call; returns what they were told is kept."""
    senders = [Sender(f"{name}-{kind}-{n}", kind) for kind in ("fresh", "far", "keeps") for n in range(4)]
    for sender in senders:
        sender.start()
    answered(senders)
    for command in commands:
        before = state("MainPID", "callbackd.service")
        run(*command)
        soon("the service runs", runs)
        if state("MainPID", "callbackd.service") == before:
            fail(f"{command}: the daemon was not exchanged")
        answered(senders)
    for sender in senders:
        sender.enough.set()
    for sender in senders:
        sender.join(60)
    # Whoever keeps a connection has to reckon with its end at any time, and opens another one.
    failed = [text for sender in senders for text in sender.failed if not (sender.keeps and text.endswith("was open"))]
    if failed:
        fail(f"exchanged, and senders were told or met: {sorted(set(failed))}, {len(failed)} times")
    acknowledged = {execution for sender in senders for execution in sender.acknowledged}
    lost = acknowledged - listed()
    if lost:
        fail(f"acknowledged, but lost: {sorted(lost)[:10]} and {len(lost)} in all")
    again = sum(len(sender.failed) for sender in senders)
    ok(f"the {name} exchanged {len(commands)} times under load: none of {len(acknowledged)} callbacks was refused or "
       f"lost ({again} requests on open connections were sent again)")
    return acknowledged


def answered(senders):
    """Waits until the daemon that now runs has answered each of them."""
    marks = [len(sender.acknowledged) + 20 for sender in senders]
    soon("every sender is answered", lambda: all(len(s.acknowledged) >= m for s, m in zip(senders, marks)))


def let_in():
    """Adds a source to the configuration, and its credential."""
    credential = CONFIG.parent / "credentials/media"
    credential.touch(mode=0o600)
    credential.write_text(TOKEN + "\n", encoding="ascii")
    with CONFIG.open("a", encoding="ascii") as config:
        config.write('\n[sources.media]\nkind = "cos_workflow"\npath = "/callbacks/media"\n'
                     'token = { credential = "callbackd_media" }\n[sinks.out]\nkind = "stdout"\n'
                     '[[routes]]\nfrom = ["media"]\nto = ["out"]\n')
    run("systemctl", "restart", "callbackd.service")
    accepted("first")
    if listed() != {"first"}:
        fail("acknowledged, but not listed")


def nobody_answers():
    for unit in UNITS:
        if state("ActiveState", unit) not in ("inactive", "failed") or state("MainPID", "callbackd.service") != "0":
            fail(f"{unit} still runs")
    try:
        post(door(), "too-late")
        fail("somebody still answers")
    except ConnectionRefusedError:
        pass
    if Path("/usr/bin/callbackd").exists():
        fail("removed, and the program is still there")


def listed():
    lines = run("callbackd", "executions", "list", "--json", "--limit", "10000000").splitlines()
    return {json.loads(line)["key"].removeprefix("i") for line in lines}


before = files()

# --- installed -------------------------------------------------------------------------------------------------------
run("dpkg", "-i", FIRST)
soon("the service runs", runs)
for unit in UNITS:
    if run("systemctl", "is-enabled", unit).strip() != "enabled":
        fail(f"{unit} is not enabled")
ok("installed: socket and service are enabled, and run")
if post(door(), "nobody")[0] != 404 or listed():
    fail("the configuration that comes with it lets somebody in")
run("callbackd", "check")
if str(CONFIG) not in run("dpkg-query", "-W", "-f=${Conffiles}", "callbackd"):
    fail("the configuration is no conffile")
said = run("setpriv", "--reuid=65534", "--clear-groups", "callbackd", "executions", "list", code=1)
if "Permission denied" not in said:
    fail(f"somebody who may not look into the store is told: {said}")
ok("the configuration that comes with it starts a daemon that nobody can call, and commands find its store")

pages = sorted(Path("/usr/share/man/man1").glob("callbackd*.1.gz"))
if len(pages) < 10:
    fail(f"only {len(pages)} manual pages")
for page in pages:
    said = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", page], capture_output=True, check=False)
    if said.returncode or said.stderr or b"SYNOPSIS" not in said.stdout:
        fail(f"{page}: {said.stderr.decode()}")
if "executions" not in run("man", "callbackd-executions-list"):
    fail("man finds no page of a command")
ok(f"man shows {len(pages)} pages, without a warning")
COMPLETE = """. /usr/share/bash-completion/bash_completion
_completion_loader callbackd || [[ $? == 124 ]]
COMP_WORDS=(callbackd executions l) COMP_CWORD=2 COMP_LINE='callbackd executions l' COMP_POINT=22
_callbackd callbackd l executions && echo "${COMPREPLY[*]}" """
if run("bash", "-c", COMPLETE).split() != ["list"]:
    fail(f"bash does not complete: {run('bash', '-c', COMPLETE)}")
ok("bash completes `callbackd executions l`")

# --- called ----------------------------------------------------------------------------------------------------------
let_in()
ok("a callback is acknowledged and kept")
acknowledged = exchanged_under_load(".deb", *(("dpkg", "-i", package) for package in (SECOND, FIRST, SECOND)))

# --- as the administrator left it ------------------------------------------------------------------------------------
for unit in UNITS:
    run("systemctl", "disable", "--now", unit)
run("dpkg", "-i", FIRST)
if any(state("ActiveState", unit) != "inactive" for unit in UNITS):
    fail("an upgrade started what was disabled")
if "\n[sources.media]" not in CONFIG.read_text(encoding="ascii"):
    fail("an upgrade took the configuration back")
run("systemctl", "enable", "--now", *UNITS)
ok("an upgrade starts nothing that was disabled, and leaves the configuration alone")

# --- removed, and purged ---------------------------------------------------------------------------------------------
run("dpkg", "-r", "callbackd")
nobody_answers()
for kept in (CONFIG, CONFIG.parent / "credentials/media", Path("/var/lib/private/callbackd/callbackd.db")):
    if not kept.exists():
        fail(f"removed, and {kept} is gone")
ok("removed: nothing runs, and configuration, credentials and store are kept")
run("dpkg", "-i", SECOND)
soon("the service runs", runs)
accepted("after")
if not acknowledged < listed():
    fail("installed again, and what was kept is gone")
ok("installed again: it goes on with what was kept")
run("dpkg", "-P", "callbackd")
left = files() - before
if left:
    fail(f"purged, and left: {sorted(left)}")
gone = before - files()
if gone:
    fail(f"purged, and more than callbackd is gone: {sorted(gone)}")
known = run("systemctl", "list-units", "--all", "--no-legend", "callbackd*")
known += run("find", "/run/systemd", "-name", "callbackd*")
if known.strip():
    fail(f"purged, and systemd still knows {known}")
ok("purged: nothing is left")

# --- the .rpm (which Debian's rpm takes under protest) ---------------------------------------------------------------
RPM_HERE = ("rpm", "--force-debian", "--nodeps")
run(*RPM_HERE, "--install", RPM)
run("systemctl", "start", *UNITS)
soon("the service runs", runs)
let_in()
exchanged_under_load(".rpm", (*RPM_HERE, "--reinstall", RPM), (*RPM_HERE, "--reinstall", RPM))
if "\n[sources.media]" not in CONFIG.read_text(encoding="ascii"):
    fail("an upgrade took the configuration back")
run(*RPM_HERE, "--erase", "callbackd")
nobody_answers()
if not CONFIG.with_suffix(".toml.rpmsave").exists():
    fail("removed, and the configuration is gone")
ok("the .rpm removed: nothing runs, and the configuration is kept")
