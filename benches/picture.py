#!/usr/bin/env python3
"""Draws what has a reach: how far each figure is from it, with the spread of its rounds. Of peers' results, how much each did.

    picture.py RESULTS.json >RESULTS.svg

Light or dark, as the reader's screen is. Python's own library alone.
"""

import json
import sys
from html import escape

WIDTH, LEFT, RIGHT, LINE = 930, 480, 790, 26
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .quiet { fill: #59636e } .head { font-weight: 600 }
  .spread { stroke: #0969da; stroke-width: 3; opacity: .35 } .reached { fill: #0969da } .missed { fill: #bc4c00 }
  .limit { stroke: #59636e; stroke-dasharray: 3 3 } .track { stroke: #d1d9e0 }
  .accepted { fill: #0969da; opacity: .25 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .quiet { fill: #9198a1 } .spread { stroke: #4493f8 } .reached, .accepted { fill: #4493f8 }
    .missed { fill: #f0883e } .limit { stroke: #9198a1 } .track { stroke: #3d444d }
  }"""


def figure(row, value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def panel(rows, limit, head, top):
    """Rows of one direction; what they are held against is one line down all of them."""
    scale = max(1.25, min(2.5, max(row["max"] / row[limit] for row in rows) * 1.05))
    x = lambda row, value: LEFT + (RIGHT - LEFT) * min(value / row[limit] / scale, 1)
    line = LEFT + (RIGHT - LEFT) / scale
    out = [f'<text class="head" x="16" y="{top}">{escape(head)}</text>']
    for number, row in enumerate(rows):
        y = top + LINE * (number + 1)
        word = "reached" if row["reached"] else "missed"
        unit = f" {row['unit']}" if row["unit"] else ""
        out += [
            f'<line class="track" x1="{LEFT}" x2="{RIGHT}" y1="{y - 4}" y2="{y - 4}"/>',
            f'<text x="16" y="{y}">{escape(row["measure"])}</text>',
            f'<line class="spread" x1="{x(row, row["min"]):.1f}" x2="{x(row, row["max"]):.1f}" y1="{y - 4}" y2="{y - 4}"/>',
            f'<circle class="{word}" cx="{x(row, row["median"]):.1f}" cy="{y - 4}" r="5"/>',
            f'<text x="{RIGHT + 12}" y="{y}">{figure(row, row["median"])}{escape(unit)}'
            f'<tspan class="quiet">&#160;/ {row[limit]:,g}</tspan></text>',
        ]
    bottom = top + LINE * len(rows) + 8
    out.append(f'<line class="limit" x1="{line:.1f}" x2="{line:.1f}" y1="{top + 6}" y2="{bottom}"/>')
    return out, bottom + 32


def frame(out, height, label):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" '
            f'aria-label="{escape(label)}">\n<style>{STYLE}\n</style>\n' + "\n".join(out) + "\n</svg>\n")


def foot(results, y, text):
    text += f" {results['machine']['cpus']} cores, {results['date']}" + (", a quick run" if results["quick"] else "")
    text += ", while other things ran" if results["load"] > 1 else ""
    return f'<text class="quiet" x="16" y="{y}">{escape(text)}</text>'


def measures(results):
    """What was measured beside what bounds it."""
    rows = [row for row in results["rows"] if row["reached"] is not None]
    out, top = [], 32
    for limit, head in (("at_least", "At least: right of the line is better"), ("at_most", "At most: left of the line is better")):
        chosen = [row for row in rows if row[limit] is not None]
        if chosen:
            lines, top = panel(chosen, limit, head, top)
            out += lines
    out.append(foot(results, top - 8, "Dots: medians; bars: least to most of the rounds."))
    return frame(out, top + 8, "What was measured, beside what was to be reached")


def peers(results):
    """callbacks a second that were acknowledged, and those of them that reached the sink."""
    left, scale = 190, (RIGHT - 190 - 40) / max(peer["accepted"] for peer in results["peers"])
    out = []
    for number, peer in enumerate(results["peers"]):
        y = 32 + LINE * number
        out += [
            f'<text x="16" y="{y}">{escape(peer["name"])}</text>',
            f'<rect class="accepted" x="{left}" y="{y - 12}" height="15" width="{max(peer["accepted"] * scale, 1):.1f}"/>',
            f'<rect class="reached" x="{left}" y="{y - 9}" height="9" width="{max(peer["forwarded"] * scale, 1):.1f}"/>',
            f'<text x="{left + peer["accepted"] * scale + 10:.1f}" y="{y}">{peer["forwarded"]:,.0f}'
            f'<tspan class="quiet">&#160;of {peer["accepted"]:,.0f}</tspan></text>']
    y = 32 + LINE * len(results["peers"]) + 8
    out.append(foot(results, y, "Callbacks a second that had reached the sink, of those acknowledged; medians of the rounds."))
    return frame(out, y + 16, "What others do with the same work")


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        found = json.load(file)
    sys.stdout.write(peers(found) if "peers" in found else measures(found))
