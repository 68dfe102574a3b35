"""A Diff for people: what each model is, the differences by rule, and one line that counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from potc.quantize.provenance import DEVICE, DIGEST, VERSION
from potc.workbench.diff_models import KINDS, Diff, Difference

LISTED = 6  # rows of one kind in a group before the rest is only counted


def diff_lines(diff: Diff, everything: bool = False) -> Iterator[str]:
    """``everything``: no row is left out."""
    for side, path, made_by in (("A", diff.a, diff.made_by[0]), ("B", diff.b, diff.made_by[1])):
        yield f"{side}  {path}{_making(made_by)}"
    groups: dict[str, list[Difference]] = {}
    for difference in diff.differences:
        groups.setdefault(_rule(difference), []).append(difference)
    for rule, found in sorted(groups.items()):
        if rule or len(groups) > 1:
            yield rule or "without a rule"
        yield from _rows(found, everything)
    yield summary(diff)


def summary(diff: Diff) -> str:
    """One line: how many differences of each kind, and the largest ratio of scales."""
    stored = {"A": [d for d in diff.differences if d.kind == "stored" and d.b in ("", "float")]}
    stored["B"] = [d for d in diff.differences if d.kind == "stored" and d not in stored["A"]]
    counts = [f"{n} {KINDS[kind][n > 1]}" for kind, n in diff.counts.items() if kind != "stored"]
    for side, found in stored.items():
        if found:
            counts.append(f"{len(found)} {KINDS['stored'][len(found) > 1]} {side} only")
    ratios = [d.ratio for d in diff.differences if d.ratio is not None]
    if not counts:
        return "no differences"
    largest = f"; largest ratio of scales {max(ratios):.3g}" if ratios else ""
    return ", ".join(counts) + largest


def _making(made_by: dict[str, str]) -> str:
    if not made_by:
        return ""
    rules = made_by.get(DIGEST, "")[:12]
    return f"  (potc {made_by.get(VERSION, '')}, device {made_by.get(DEVICE, '')}, rules {rules})"


def _rule(difference: Difference) -> str:
    a, b = difference.rule_a, difference.rule_b
    if a and b and a != b:
        return f"{a} in A, {b} in B"
    return a or b


def _rows(found: list[Difference], everything: bool) -> Iterator[str]:
    order = list(KINDS)
    found = sorted(found, key=lambda d: (order.index(d.kind), -(d.ratio or 0)))  # largest first, then by name
    shown = [_row(d) for d in found]
    if not everything:
        counts = Counter[str]()
        shown = []
        for difference in found:
            counts[difference.kind] += 1
            if counts[difference.kind] <= LISTED:
                shown.append(_row(difference))
    widths = [max(len(row[k]) for row in shown) for k in range(2)]
    yield from (f"  {kind.ljust(widths[0])}  {name.ljust(widths[1])}  {words}" for kind, name, words in shown)
    if len(found) > len(shown):
        yield f"  and {len(found) - len(shown)} more; -v lists all"


def _row(difference: Difference) -> tuple[str, str, str]:
    a, b, name = difference.a, difference.b, difference.name
    if not a or not b:
        return f"only in {'A' if a else 'B'}", name, a or b
    words = a if a == b else f"{a} -> {b}"
    if difference.ratio is not None:
        words += f", ratio {difference.ratio:.3g}"
    return difference.kind, name, words
