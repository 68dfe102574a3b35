"""A conformance kit: small quantized models for every rule and limit of a device, with inputs and what must come out."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from typing import Any

import numpy as np

from potc import __version__
from potc.diagnostics.diagnostic import reject
from potc.diagnostics.source import Span
from potc.graph.model import Model
from potc.language.program import Program
from potc.workbench.exact import TIES
from potc.workbench.scenes import Stage
from potc.workbench.suite_build import FLOAT_TOLERANCE, formats
from potc.workbench.suite_cases import Case, Found, Missing, cases_of_pass, cases_of_rule
from potc.workbench.suite_expect import Expected, Stored
from potc.workbench.suite_text import readme

VERSION = 1
PASS = "pass"  # what --rule calls the statements of that name
ROUNDING = (
    "QuantizeLinear divides by the scale, rounds half to even, adds the zero point and saturates. Every operator between "
    "DequantizeLinear and QuantizeLinear is computed in float64 from the exact values of the codes. An element is marked as "
    "near a tie where the value that is rounded lies within tie_distance codes of the middle between two codes: there, and "
    "only there, the neighbouring code is right as well. Where scales are powers of two and float32 rounds nothing, no "
    "element is marked: half goes to even."
)


@dataclass(frozen=True, slots=True)
class Kit:
    """``files``: path below the kit's folder -> bytes, the manifest last. ``covered``: qualified names of rules with a case."""

    cases: tuple[Case, ...]
    missing: tuple[Missing, ...]
    files: Mapping[str, bytes]

    @property
    def covered(self) -> frozenset[str]:
        return frozenset(case.rule for case in self.cases)


def make_kit(
    program: Program, seed: int, rule: str | None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Kit:
    """All cases of a device, or of one rule (``conv``, ``cpu.conv`` or ``pass``). Equal arguments give equal bytes.

    ``progress(done, total)`` counts statements. Raises Rejected(usage), exit code 2, for a rule that the device does not have.
    """
    found = list(_found(program, seed, rule, progress))
    taken = {part for case in found if isinstance(case, Case) for part in _kernel_rules(case)}
    cases = tuple(f for f in found if isinstance(f, Case))
    missing = tuple(f for f in found if isinstance(f, Missing) and not (program.parts and f.rule in taken))
    return Kit(cases, missing, _files(program, seed, cases, missing))


def _kernel_rules(case: Case) -> Iterator[str]:
    for kernel in case.compiled.scene.kernels_at():
        yield from kernel.rule.split(" & ")


def _found(program: Program, seed: int, rule: str | None, progress: Callable[[int, int], None]) -> Iterator[Found]:
    stage = Stage(program, seed)
    rules = [(part, r) for part in program.members for r in part.rules if rule in (None, r.name, r.qualified)]
    passes = [(part, s) for part in program.members for s in part.passes if rule in (None, PASS)]
    total = len(rules) + len(passes)
    if not total:
        raise _unknown(program, str(rule))
    for done, (part, r) in enumerate(rules):
        progress(done, total)
        yield from cases_of_rule(stage, part, r)
    for done, (part, s) in enumerate(passes):
        progress(len(rules) + done, total)
        yield from cases_of_pass(stage, part, s)
    progress(total, total)


def _unknown(program: Program, rule: str) -> Exception:
    names = dict.fromkeys(n for part in program.members for r in part.rules for n in (r.name, r.qualified))
    near = get_close_matches(rule, [*names, PASS], 1)
    message = f"`{program.device}` has no rule `{rule}`" + (f"; did you mean `{near[0]}`?" if near else "")
    return reject("usage", message, help="give a rule by its name, or `pass`", exit_code=2)


# ---------------------------------------------------------------------------------------------- files


def _files(program: Program, seed: int, cases: Sequence[Case], missing: Sequence[Missing]) -> Mapping[str, bytes]:
    files: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for case in cases:
        label = f"{case.rule}-{case.kind}".replace(" ", "-").replace("::", "-")
        counts[label] += 1
        name = f"{label}-{counts[label]}"
        entry = _entry(name, case)
        entries.append(entry)
        arrays = dict(case.expected.outputs)
        for stored in case.expected.stored:
            arrays[_codes(stored)] = case.expected.codes[stored.tensor]
            arrays[_near(stored)] = case.expected.near_tie[stored.tensor]
        files[entry["files"]["model"]] = case.compiled.serialized
        files[entry["files"]["inputs"]] = npz(case.expected.inputs)
        files[entry["files"]["expected"]] = npz(arrays)
    manifest = _manifest(program, seed, entries, missing)
    files["run.py"] = resources.files("potc.workbench").joinpath("suite_runner.py").read_bytes()
    files["README.md"] = readme(manifest).encode()
    files["manifest.json"] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz file whose bytes depend on nothing but the arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue(), zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()


def _codes(stored: Stored) -> str:
    return f"{stored.tensor}.codes"


def _near(stored: Stored) -> str:
    return f"{stored.tensor}.near_tie"


# ---------------------------------------------------------------------------------------------- the manifest


def _manifest(
    program: Program, seed: int, entries: Sequence[Mapping[str, Any]], missing: Sequence[Missing]
) -> dict[str, Any]:
    return {
        "potc_suite": VERSION,
        "potc": __version__,
        "device": program.device,
        "parts": [part.device for part in program.parts],
        "features": dict(program.features),
        "rules_sha256": program.digest,
        "seed": seed,
        "rounding": ROUNDING,
        "tie_distance_of_codes": TIES,
        "cases": list(entries),
        "not_covered": [
            {"rule": m.rule, "place": place_of(m.span), "about": m.about, "reason": m.reason} for m in missing
        ],
    }


def _entry(name: str, case: Case) -> dict[str, Any]:
    expected, compiled = case.expected, case.compiled
    ends = {s.tensor: s for s in expected.stored if s.end}
    model = Model("", compiled.proto, ())
    own = {t: n for n, tensors in compiled.scene.bindings.items() for t in tensors}
    return {
        "name": name,
        "kind": case.kind,
        "rule": case.rule,
        "place": place_of(case.span),
        "about": case.about,
        "variant": compiled.scene.variant,
        "must_run": case.runs,
        "legal": case.legal,
        "nodes": list(compiled.scene.nodes),
        "kernels": [{"rule": k.rule, "nodes": list(k.nodes)} for k in compiled.plan.kernels] if case.legal else [],
        "opset": model.opset,
        "files": {
            "model": f"cases/{name}/model.onnx",
            "inputs": f"cases/{name}/inputs.npz",
            "expected": f"cases/{name}/expected.npz",
        },
        "samples": list(expected.samples),
        "inputs": [_tensor(v.name, expected.inputs[v.name], None, expected) for v in model.inputs],
        "outputs": [_tensor(n, a, ends.get(n), expected) for n, a in expected.outputs.items()],
        "stored": [{"tensor": s.tensor, **_grid(s, expected)} for s in expected.stored if not s.end],
        "formats": {f"{own[t]} ({t})" if own.get(t, t) != t else t: f for t, f in formats(compiled).items()},
        "codes_exact": not expected.undecided and all(not m.any() for m in expected.near_tie.values()),
        "undecided_samples": list(expected.undecided),
    }


def _tensor(name: str, array: np.ndarray, stored: Stored | None, expected: Expected) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "array": name, "dtype": str(array.dtype), "shape": list(array.shape[1:])}
    if name in expected.outputs:
        found["stored"] = None if stored is None else _grid(stored, expected)
        found["float_tolerance"] = FLOAT_TOLERANCE
    return found


def _grid(stored: Stored, expected: Expected) -> dict[str, Any]:
    """Scale and zero point of a tensor, where its codes and marks are, and how many codes are at an end or near a tie."""
    codes = expected.codes[stored.tensor]
    low, high = stored.grid.limits
    return {
        "storage": stored.grid.storage,
        "scale": _plain(stored.grid.scale),
        "zero_point": _plain(stored.grid.zero_point),
        "axis": stored.axis,
        "codes": _codes(stored),
        "near_tie": _near(stored),
        "tie_distance": 0.0 if stored.tensor in expected.exact else stored.grid.tie_distance,
        "near_ties": int(expected.near_tie[stored.tensor].sum()),
        "at_ends": int(((codes == low) | (codes == high)).sum()),
    }


def _plain(numbers: np.ndarray) -> Any:
    return numbers.tolist() if numbers.size != 1 else numbers.reshape(()).item()


def place_of(span: Span) -> str:
    """``cpu.rules:26``, without a folder: the same wherever the rules lie."""
    return span.place.replace("\\", "/").rpartition("/")[2]
