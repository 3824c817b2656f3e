#!/usr/bin/env python3
"""`table.py FILE`: what `run.sh --json FILE` has written, as the Markdown tables of docs/performance.md."""

import json
import sys


def number(value):
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def costs(line):
    """CPU seconds, a column each, and the rest that a full sync is asked for."""
    names = ("collectord", "syncd", "datanode", "namenode")
    parts = [line[f"{name}_cpu_s"] for name in names]
    curl = sum(v for k, v in line.items() if k.startswith("reference_") and k.endswith("_cpu_s"))
    peaks = [line[f"{name}_peak_mib"] for name in names[:2]]
    cells = [line["case"], *map(number, [*parts, sum(parts), curl, sum(parts) / curl, *peaks]), str(line["files"])]
    return "| " + " | ".join(cells) + " |"


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    print("| bench | case | ours | reference | | ratio | by CPU | target |\n|---|---|---|---|---|---|---|---|")
    before = None
    for line in lines:
        met = {True: "met", False: "**not met**"}.get(line.get("met"), "")
        cells = [
            "" if line["bench"] == before else line["bench"].replace("_", " "),
            line["case"],
            number(line["ours"]),
            number(line["reference"]),
            line["unit"],
            "" if line["ratio"] is None else f"{line['ratio']:.2f}",
            number(line.get("cpu_ratio")),
            f"{line['target']}: {met}" if met else "",
        ]
        before = line["bench"]
        print("| " + " | ".join(cells) + " |")
    syncs = [line for line in lines if line["bench"] == "end_to_end"]
    if syncs:
        print(
            "\n| CPU seconds | collectord | syncd | DataNode | NameNode | all | `curl` | ratio "
            "| collectord's peak | syncd's, MiB | files |\n|---|---|---|---|---|---|---|---|---|---|---|"
        )
        print("\n".join(map(costs, syncs)))


if __name__ == "__main__":
    main()
