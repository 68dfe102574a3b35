"""The table of layers: what each costs, in a row of text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from potc.diagnostics.render_text import escaped
from potc.evaluate.layers import Layer, Layers

HEAD = ("share", "outputs dB", "alone dB", "result dB", "clipped", "layer", "rule", "formats")


def layer_rows(layers: Layers) -> Iterator[tuple[str, ...]]:
    """A head, and one row for each layer that rounds something."""
    noisy = [row for row in layers.rows if row.constants or row.stored]
    if noisy:
        yield HEAD
    for row in noisy:
        formats = ", ".join(dict.fromkeys((*row.constants.values(), *(s.format for s in row.stored))))
        clipped = "" if not row.clipped else _percent(row.clipped)
        yield (
            _percent(row.share),
            "" if row.output_db is None else _decibels(row.output_db),
            _decibels(row.alone_db),
            _decibels(row.sqnr_db),
            clipped,
            _name(row),
            row.rule,
            formats,
        )


def layers_title(layers: Layers) -> str:
    """What the shares are shares of, and how they were found."""
    if layers.explained is None:
        return "layers (no float output, or no error at the outputs: nothing to share)"
    how = "measured" if layers.measured else "measured in groups"
    count = f"{layers.followed} sample" + ("s" if layers.followed > 1 else "")
    return (
        f"layers by their share of the error at the outputs ({how} on {count}; together {_percent(layers.explained)})"
    )


def unwatched_line(layers: Layers) -> str:
    """What has no row because it is in nested graphs; empty if nothing is."""
    count = len(layers.unwatched)
    kernels = "1 kernel" if count == 1 else f"{count} kernels"
    told = f"{kernels} in bodies of If, Loop or Scan without a row: what a body computes is not watched"
    return f"  {told}" if count else ""


def _name(row: Layer) -> str:
    return ", ".join(map(escaped, row.nodes)) or f"{escaped(row.tensor)} (stored)"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _decibels(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "exact" if value > 0 else "lost"
