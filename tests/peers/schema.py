"""What schema.sh checks. Arguments: the binary, and the top of the source tree."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from jsonschema import Draft202012Validator

binary, top = sys.argv[1], Path(sys.argv[2])

# How `check` says that a key, a type or a word is wrong: that is for the schema to know, too. Anything else (names that
# nothing bears, files that are not there, programs) only a look at the whole can tell.
SHAPE = re.compile(
    r"no such (key|kind|word|section)|has to be written, and is missing|is missing; write one of"
    r"|: expected .*, found (a|true or|something) ?|is no (span of time|size);|is a list of tables|is a table, which|has a table for each"
)


def run(*args):
    return subprocess.run([binary, *args], capture_output=True, text=True, timeout=120, cwd=top)


def schema(of):
    done = run("schema", of)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    Draft202012Validator.check_schema(read)
    return Draft202012Validator(read, format_checker=Draft202012Validator.FORMAT_CHECKER)


def faults(validator, instance):
    return [f"{e.json_path}: {e.message[:300]}" for e in validator.iter_errors(instance)]


def hold(what, holds, why=""):
    if not holds:
        sys.exit(f"not ok - {what}\n{why}")
    print(f"ok - {what}")


config = schema("config")
manual = (top / "config/callbackd.toml").read_text()
hold("the manual's first line leads editors to the schema", manual.startswith("#:schema ./callbackd.schema.json\n"))
shipped = {str(path.relative_to(top)): path.read_text() for path in sorted(top.glob("config/examples/*.toml"))}
shipped["config/callbackd.toml"] = manual
shipped["config/callbackd.toml, every key switched on"] = re.sub(r"^#(?![ :\n])", "", manual, flags=re.M)
blocks = re.findall(r"```toml\n(.*?)```", (top / "README.md").read_text(), re.S)
assert blocks, "README has no configuration"
shipped["README.md"] = blocks[0]
shipped["README.md, with what goes on with it"] = "".join(blocks)
for name, text in shipped.items():
    found = faults(config, tomllib.loads(text))
    hold(f"{name} is valid", not found, "\n".join(found))

judged = 0
for path in sorted(top.glob("tests/it/bad_configs/*.toml")):
    said = run("check", "--config", str(path)).stderr
    if not SHAPE.search(said):
        continue
    try:
        read = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError:
        continue
    judged += 1
    hold(f"{path.name}, which `check` refuses for its shape, is not valid", faults(config, read), said)
hold("so are ten files at least", judged >= 10, str(judged))

# And what a typing slip anywhere would be: each key of the manual misspelt, one at a time.
everything = tomllib.loads(shipped["config/callbackd.toml, every key switched on"])
assert not faults(config, everything)
slips = 0


def misspelt(table, path):
    global slips
    for key in list(table):
        value = table[key]
        # Names, workflows and headers are free.
        free = path in (["sources"], ["sinks"]) or (path and path[-1] in ("expect", "headers"))
        if not free:
            table[key + "x"] = table.pop(key)
            hold_quietly(f"{'.'.join(path + [key])} misspelt", faults(config, everything))
            table[key] = table.pop(key + "x")
            slips += 1
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                misspelt(one, path + [key])


def hold_quietly(what, holds):
    if not holds:
        sys.exit(f"not ok - {what} is taken for valid")


misspelt(everything, [])
hold(f"each of {slips} keys misspelt is not valid", slips > 150, str(slips))

change = schema("change")
done = run("replay", "fixtures")
assert done.returncode == 0, done.stdout[-2000:] + done.stderr
told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
for one in told:
    found = faults(change, one)
    if found:
        sys.exit(f"not ok - {json.dumps(one)}\n" + "\n".join(found))
hold(f"{len(told)} changes of the fixtures are valid", len(told) > 20)
del one["data"]["execution"]["subject"]
hold("a change that lacks something is not", faults(change, one))
