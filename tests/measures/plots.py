"""Makes a table and plots of what `make bench` measured.

    plots.py build/bench        reads measures.tsv; writes table.md, and a PNG for each kind of measure

The ratio is blat's figure to that of what it is measured beside: below 1, blat takes less.
"""

import datetime
import os
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plot

KINDS = {
    "seconds": ("Time", (", s", ": s", ", ms", " s (", " ms (")),
    "bytes": ("Bytes on the wire", ("on the wire", ": kB", ": MB")),
    "cpu": ("CPU seconds", ("CPU",)),
    "memory": ("Most memory", ("memory", "resident", "MiB")),
}


def kind(name):
    """Which of KINDS a measure is; none for what is only in the table."""
    for key in ("cpu", "memory", "bytes", "seconds"):
        if any(mark in name for mark in KINDS[key][1]):
            return key
    return None


def measures(path):
    """The lines of the table, each with its full name: (name, ours, peer, ratio)."""
    found, above = [], ""
    for text in path.read_text().splitlines():
        name, *numbers = text.split("\t")
        if name.startswith(" "):
            name = f"{above}: {name.strip()}"
        else:
            above = name.rsplit(",", 1)[0] if "," in name else name.rsplit(":", 1)[0]
        found.append((name, *map(float, numbers)))
    return found


def machine():
    cpu = [line for line in open("/proc/cpuinfo") if line.startswith("model name")]
    model = cpu[0].split(":", 1)[1].strip() if cpu else "unknown processor"
    return f"{datetime.date.today()}, {os.cpu_count()} cores of {model}; master and target on the same cores"


def table(found):
    rows = "".join(f"| {name} | {ours:,.2f} | {peer:,.2f} | {ratio:.2f} |\n" for name, ours, peer, ratio in found)
    return f"Measured on {machine()}.\n\n| measure (beside) | blat | other | ratio |\n| --- | ---: | ---: | ---: |\n{rows}"


def picture(title, found, path):
    """Bars of the ratios, the line where both are equal, and the figures beside."""
    figure, axes = plot.subplots(figsize=(11, 1.2 + 0.28 * len(found)), layout="constrained")
    names = [name for name, *_ in found]
    ratios = [max(ratio, 0.001) for *_, ratio in found]
    axes.barh(range(len(found)), ratios, color=["#2a7f62" if ratio <= 1 else "#b5482f" for ratio in ratios])
    axes.set_yticks(range(len(found)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    for row, (_, ours, peer, _) in enumerate(found):
        axes.text(ratios[row], row, f" {ours:,.2f} / {peer:,.2f}", va="center", fontsize=7)
    axes.set_title(f"{title}: blat's to the other's (left of 1: blat takes less)", fontsize=10)
    axes.set_xlim(right=max(ratios) * 6)
    figure.savefig(path, dpi=120)
    plot.close(figure)


def main(folder):
    found = measures(folder / "measures.tsv")
    (folder / "table.md").write_text(table(found))
    for key, (title, _) in KINDS.items():
        these = [line for line in found if kind(line[0]) == key]
        if these:
            picture(title, these, folder / f"{key}.png")
    print(f"The table: {folder}/table.md; plots: " + ", ".join(str(path) for path in sorted(folder.glob("*.png"))))


main(pathlib.Path(sys.argv[1]))
