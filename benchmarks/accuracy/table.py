"""results.json as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from host import described

Row = dict[str, Any]

LEGEND = """Metric: on onnxruntime's integer kernels (`kernels`), with its 95 % interval from resampled samples, and with
optimizations off (`simulated`). `vs float`: the difference of the metric on kernels, 95 % interval from the same resamples
for both models; `p`: McNemar's exact test that the quantized model is right as often as float, over `lost`/`won` samples
(only float, only this model is right). `same`: share of answers equal to float's on kernels. SQNR: worst float output over
all evaluation samples, dB, kernels / simulated. `int`: convolutions and matrix products of the optimized graph that read
integers. `time`: CPU seconds of the whole command, imports included, median, and its ratio to {baseline} in the same round
(lowest to highest); `wall`: seconds, median, as busy as the machine was. `peak`: largest resident memory. `run`: CPU time of
one inference on one thread relative to float's, median and quartiles of alternating runs."""


def page(document: Row) -> str:
    """The whole page."""
    kind = described(document["machine"])
    lines = ["# Results", "", "Made by `benchmarks/accuracy/run.py`; do not edit. See README.md for how.", ""]
    lines += [f"- Machine: {kind}; {document['threads']} threads to score, others' work on it at the same time"]
    lines += [f"- Command: `{document['command']}` (the last one)"]
    for peer, versions in document["versions"].items():
        lines += [f"- {peer}: " + (", ".join(f"{n} {v}" for n, v in versions.items()) or "not installed")]
    lines += ["", LEGEND.format(baseline=document["baseline"]), ""]
    lines += summary(document["models"])
    for name, model in document["models"].items():
        lines += section(name, model)
    return "\n".join(lines) + "\n"


def summary(models: dict[str, Row]) -> list[str]:
    """One line a tool: over how many models, and how it does on them."""
    names = list(dict.fromkeys(tool for model in models.values() for tool in model["tools"]))
    lines = ["## All models", "", "Means over the models that a tool could do, so compare lines of equal `models`.", ""]
    lines += [
        "| tool | models | metric vs float | worst | SQNR kernels / simulated | int | significantly worse (p < 0.05) |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for tool in names:
        rows = [(n, m["tools"][tool]) for n, m in models.items() if tool in m["tools"]]
        good = [(n, r) for n, r in rows if "failed" not in r]
        if not good:
            lines += [f"| {tool} | 0 of {len(rows)} | | | | | |"]
            continue
        differences = {n: r["kernels"]["difference"] for n, r in good}
        worst = min(differences, key=lambda n: differences[n])
        noise = [statistics.mean(min(r[w]["sqnr_db"], 99.0) for _, r in good) for w in ("kernels", "simulated")]
        covered = [r["coverage"] for _, r in good]
        integer, products = (sum(c[k] for c in covered) for k in ("integer", "products"))
        worse = [n for n, r in good if r["kernels"]["difference"] < 0 and is_significant(r["kernels"])]
        lines += [
            f"| {tool} | {len(good)} of {len(rows)} | {100 * statistics.mean(differences.values()):+.2f} | "
            f"{100 * differences[worst]:+.2f} {worst} | {noise[0]:.1f} / {noise[1]:.1f} | {integer}/{products} | "
            f"{', '.join(worse) or '-'} |"
        ]
    return [*lines, ""]


def is_significant(found: Row) -> bool:
    """By McNemar's test where there is one, else by the interval of the difference."""
    if found["mcnemar"] is not None:
        return found["mcnemar"] < 0.05
    interval = found["difference_interval"]
    return interval is not None and (interval[1] < 0 or interval[0] > 0)


def section(name: str, model: Row) -> list[str]:
    """One model."""
    plain = model["float"]
    head = f"{model['metric']} of float {100 * plain['value']:.2f}{interval(plain['interval'])}, {model['n']} samples"
    if "latency" in plain:
        head += f", {plain['latency']['cpu_ms']:.2f} ms a run"
    lines = [f"## {name}", "", f"{head}, {plain['bytes'] / 1e3:.0f} kB. Measured {model['measured']}.", ""]
    lines += [
        "| tool | kernels | simulated | vs float | p (lost/won) | same | SQNR | int | kB | time | wall | peak MB | run |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    failed: list[str] = []
    for tool, row in model["tools"].items():
        if "failed" in row:
            failed.append(f"- {tool} fails: {row['failed']}")
        else:
            lines += [line(tool, row)]
    return [*lines, "", *failed, *([""] if failed else [])]


def line(tool: str, row: Row) -> str:
    real, simulated, share = row["kernels"], row["simulated"], row["coverage"]
    p = f"{real['mcnemar']:.3f} ({real['lost']}/{real['won']})" if real["mcnemar"] is not None else ""
    same = f"{100 * real['agreement']:.2f}" if real["agreement"] is not None else ""
    cells = [
        tool + (f" ({row['extra_outputs']} outputs too many)" if row.get("extra_outputs") else ""),
        f"{100 * real['value']:.2f}{interval(real['interval'])}",
        f"{100 * simulated['value']:.2f}",
        f"{100 * real['difference']:+.2f}{interval(real['difference_interval'])}",
        p,
        same,
        f"{real['sqnr_db']:.1f} / {simulated['sqnr_db']:.1f}",
        f"{share['integer']}/{share['products']}",
        f"{row['bytes'] / 1e3:.0f}",
        *costs(row["processes"], row["cpu_ratios"]),
        latency(row.get("latency")),
    ]
    return "| " + " | ".join(cells) + " |"


def costs(processes: list[Row], ratios: list[float]) -> list[str]:
    """CPU time with its ratio to the baseline, wall time, peak memory."""
    median = {key: statistics.median(p[key] for p in processes) for key in ("cpu_s", "wall_s", "peak_mb")}
    told = f"{median['cpu_s']:.1f}"
    if ratios:
        told += f" ({statistics.median(ratios):.2f}x, {min(ratios):.2f}..{max(ratios):.2f})"
    return [told, f"{median['wall_s']:.1f}", f"{median['peak_mb']:.0f}"]


def latency(found: Row | None) -> str:
    return f"{found['ratio']:.2f} ({found['ratio_low']:.2f}..{found['ratio_high']:.2f})" if found else ""


def interval(found: list[float] | None) -> str:
    return f" [{100 * found[0]:.2f}, {100 * found[1]:.2f}]" if found else ""
