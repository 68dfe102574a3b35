"""The report of a compile, for people: one screen, and more with -v."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from potc.cli.layers import layer_rows, layers_title, unwatched_line
from potc.diagnostics.render_text import escaped
from potc.quantize.equalize.centre import Centred
from potc.quantize.equalize.run import Equalized
from potc.report import FloatNode, KernelUse, Report, RuleUse, Scaled, Tried

GENERATED = (
    "no --data: calibrated on generated samples. Good for trying out, not for use: real inputs have other ranges.\n"
    "  Give --data FILE.npz with arrays named like the model's inputs, first axis = samples."
)
LISTED = 12  # rows of a table before the rest is only counted; -v lists all


def summary(report: Report, output: str, verbose: bool) -> str:
    """What came out, which rules made it, and what stayed in float and why."""
    names = f"{escaped(report.model)} -> {escaped(output)}"
    lines = [f"{names}  (device {report.device}, {_counted(report.samples)}, preset {report.preset})"]
    lines += _figures(report)
    if report.choice is not None:
        title = f"settings tried, by SQNR over {report.choice.held_back} samples that were held back"
        lines += _table(title, [_tried_row(t) for t in report.choice.tried])
    lines += _table("kernels", _use_rows(report.rule_uses))
    lines += _table("rewrites before", _use_rows(report.rewrites))
    if verbose:
        if report.equalization is not None:
            lines += _table("equalized between", [_scaled_row(g) for g in report.equalization.groups])
            lines += _table("centred between", [_centred_row(c) for c in report.equalization.centred])
        if report.layers is not None:
            lines += _table(layers_title(report.layers), list(layer_rows(report.layers)))
            lines += filter(None, [unwatched_line(report.layers)])
        lines += _table("each kernel", [_kernel_row(k) for k in report.kernels])
    rows = list(float_rows(report.stayed_float, grouped=not verbose))
    shown = rows if verbose else rows[:LISTED]
    lines += _table("stayed float", shown)
    if len(rows) > len(shown):
        lines.append(f"    and {len(rows) - len(shown)} rows more; -v lists all")
    lines += [f"warning: {escaped(text)}" for text in report.warnings]
    if report.generated:
        lines.append(f"warning: {GENERATED}")
    return "\n".join(lines)


def _figures(report: Report) -> Iterator[str]:
    before, after = report.bytes_before, report.bytes_after
    yield f"  size       {size(before)} -> {size(after)} ({100 * after / max(before, 1):.0f} %)"
    share, verified, narrowed = report.share, report.verification, report.narrowed
    weighted = f"{share.weighted_integer} of {share.weighted} nodes with weights"
    yield f"  integer    {weighted}, {share.integer} of {share.quantizable} nodes in kernels, as onnxruntime runs them"
    told = ", ".join(f"{escaped(o.name)} {o.sqnr_db:.1f} dB" for o in verified.outputs) or "no float output"
    yield f"  SQNR       {told} over {_counted(verified.samples)}, against the float model"
    for border in report.borders:
        numbers = f"{border.storage}, scale {border.scale:.6g}, zero point {border.zero_point}"
        yield f"  {border.direction:<10} {escaped(border.tensor)} {numbers}"
    if report.equalization is not None and not report.equalization.refused:
        yield f"  equalized  {_equalized(report.equalization)}"
    if narrowed.scales:
        yield f"  narrowed   {narrowed.grown} of {narrowed.scales} weight scales, so that no accumulator saturates"
    if (second := report.second_order) is not None:
        yield f"  rounded    {second.rounded} of {second.weights} weights by second moments"


def _counted(samples: int) -> str:
    return "1 sample" if samples == 1 else f"{samples} samples"


def _equalized(found: Scaled) -> str:
    told: list[str] = []
    if found.groups:
        channels = sum(group.channels for group in found.groups)
        low, high = min(g.smallest for g in found.groups), max(g.largest for g in found.groups)
        groups = "1 group" if len(found.groups) == 1 else f"{len(found.groups)} groups"
        told.append(f"{channels} channels in {groups}, divided by {low:.3g} to {high:.3g}")
    if found.centred:
        tensors = "1 tensor" if len(found.centred) == 1 else f"{len(found.centred)} tensors"
        told.append(f"{sum(c.channels for c in found.centred)} channels in {tensors} centred")
    return "; ".join(told) or "nothing: no channels that can be scaled would gain by it"


def _scaled_row(group: Equalized) -> tuple[str, ...]:
    nodes = (", ".join(map(escaped, names)) for names in (group.sources, group.sinks))
    scales = f"{group.channels} channels divided by {group.smallest:.3g} to {group.largest:.3g}"
    return *nodes, scales, f"{100 * group.noise:.0f} % of the noise"


def _centred_row(tensor: Centred) -> tuple[str, ...]:
    moved = f"{tensor.channels} channels moved by up to {tensor.largest:.3g}"
    sinks = ", ".join(map(escaped, tensor.sinks))
    return escaped(tensor.source), sinks, moved, f"{100 * tensor.share:.0f} % of the extent"


def _tried_row(tried: Tried) -> tuple[str, ...]:
    score = tried.failed if tried.score is None else f"{tried.score.mean_db:.1f} dB"
    return ("*" if tried.kept else " ", score, "; ".join(tried.changed) or "as given")


def _use_rows(uses: Sequence[RuleUse]) -> list[tuple[str, ...]]:
    return [(f"{use.count} x", use.rule, use.place) for use in uses]


def _kernel_row(kernel: KernelUse) -> tuple[str, ...]:
    formats = ", ".join(f"{name} {storage}" for name, storage in kernel.formats.items())
    nodes = ", ".join(map(escaped, kernel.nodes))
    return nodes, kernel.rule, formats + ("" if kernel.integer else "; onnxruntime runs it in float")


def float_rows(nodes: Iterable[FloatNode], *, grouped: bool) -> Iterator[tuple[str, ...]]:
    """Node, operator, reason, place: one row a reason, the node named in the first of its rows.

    ``grouped``: nodes of one operator that the same lines of the rules keep in float share the rows of the first of them.
    """
    groups: dict[object, list[FloatNode]] = {}
    for node in nodes:
        alike = (node.operator, tuple((r["rule"], r["place"]) for r in node.reasons)) if grouped else node.node
        groups.setdefault(alike, []).append(node)
    for first, *others in groups.values():
        name = escaped(first.node) + (f" and {len(others)} more" if others else "")
        for index, reason in enumerate(first.reasons):
            named = (name, first.operator) if index == 0 else ("", "")
            yield (*named, escaped(reason["reason"]), f"{reason['rule']} {reason['place']}".strip())


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A title and aligned rows; nothing without rows."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    body = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return [f"  {title}", *(f"    {line}" for line in body)]


def size(count: int) -> str:
    """A number of bytes in kB or MB, with three figures."""
    if count < 1000:
        return f"{count} B"
    value, unit = (count / 1e3, "kB") if count < 999_500 else (count / 1e6, "MB")
    return f"{value:.3g} {unit}"
