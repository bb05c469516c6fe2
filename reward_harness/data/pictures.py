"""The picture of a dataset: how long its texts are, by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

COLORS = ("#3b6ea5", "#d1742f", "#5b8c5a")
PERCENTILE_SHOWN = 99


def plot_lengths(texts: Mapping[str, Sequence[str]], title: str, path: Path) -> None:
    """Write overlaid histograms of lengths in words to ``path``; equal texts make equal bytes.

    The axis ends at the 99th percentile: a few very long texts would squeeze all others into one
    bar.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lengths = {kind: np.array([len(t.split()) for t in group]) for kind, group in texts.items()}
    longest = max(float(np.percentile(v, PERCENTILE_SHOWN)) for v in lengths.values())
    bins = np.linspace(0, max(longest, 1.0), 31)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6.4, 3.2), dpi=110, layout="constrained")
        axes = figure.subplots()
        for (kind, values), color in zip(lengths.items(), COLORS, strict=False):
            label = f"{kind} (n = {len(values)}, median {np.median(values):.0f})"
            axes.hist(values, bins=list(bins), histtype="stepfilled", alpha=0.35, color=color)
            axes.hist(values, bins=list(bins), histtype="step", color=color, label=label)
        axes.set(xlabel="length in words", ylabel="texts", title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Software": None})
