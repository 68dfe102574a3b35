"""The page that goes with a conformance kit, for the people who run it on their board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

KINDS = {
    "variant": "one way to take the rule's pattern: an optional step or input taken or not, each alternative",
    "format": "the same graph with other number formats that the rule allows",
    "attribute": "an attribute of the first operator away from its default",
    "read": "a result that may stay in float, read by a kernel that wants it stored",
    "limit": "a `require` at its boundary, on the allowed side",
    "beyond": "one step beyond it: the device must not run this as the kernel of the rule",
    "sums": "the largest sums that the weights allow, and biases that need more than 16 bits",
    "ties": "scales that are powers of two: values in the middle between two codes, half goes to even",
    "pass": "an operator that moves codes and changes none",
    "float": "what stays in float",
}


def readme(manifest: Mapping[str, Any]) -> str:
    """README.md of a kit: what is in it, how to run it and how results are compared."""
    return "\n".join(_lines(manifest)) + "\n"


def _lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    cases = manifest["cases"]
    kinds = Counter(case["kind"] for case in cases)
    settings = ", ".join(f"{name} = {str(value).lower()}" for name, value in manifest["features"].items())
    yield f"# Conformance kit for `{manifest['device']}`"
    yield ""
    yield f"{len(cases)} small quantized ONNX models, with inputs and the outputs that a bit-exact device gives. Made by potc"
    yield f"{manifest['potc']} from rules with the digest `{manifest['rules_sha256']}`, seed {manifest['seed']}" + (
        f", {settings}." if settings else "."
    )
    yield ""
    yield "## What is in it"
    yield ""
    yield "- `manifest.json`: one entry for each case, with the rule and its place in the rule file, and what the case is about."
    yield "- `cases/NAME/model.onnx`: the model. Stored tensors stand between QuantizeLinear and DequantizeLinear."
    yield "- `cases/NAME/inputs.npz`: one array for each input. The first axis counts samples, the rest is what the model takes."
    yield "- `cases/NAME/expected.npz`: for each output its float32 values, for each stored tensor `T` its codes (`T.codes`)"
    yield "  and where the neighbouring code is right as well (`T.near_tie`). Codes of inner tensors show where a first"
    yield "  difference came from."
    yield "- `run.py`: runs all cases and prints a table. It needs numpy only."
    yield ""
    yield "| kind | cases | what it tries |"
    yield "|---|---|---|"
    yield from (f"| {kind} | {kinds[kind]} | {words} |" for kind, words in KINDS.items() if kinds[kind])
    yield ""
    yield "## How to run it"
    yield ""
    yield "1. Write `run_on_board` in `run.py`: it gets the path of a model and one sample, and returns the outputs."
    yield "2. Start `python run.py`, or `python run.py conv` for the cases with `conv` in their names."
    yield ""
    yield "An output may be returned as float32 values or as codes. Where the board's compiler refuses a model, raise"
    yield "`Refused`. Cases with `must_run` true must run, as the kernels that the manifest lists. Cases with `must_run` false"
    yield "must be refused, or run in another way that gives the expected outputs; `legal` false means that no kernel of the"
    yield "device takes them."
    yield ""
    yield "## How outputs are compared"
    yield ""
    yield "Codes are compared, not floats: `code = round_half_even(value / scale) + zero_point`, saturated to the storage."
    yield ""
    yield "Expected codes are computed in float64 from the exact values of the codes, which is exact for sums of products: they"
    yield "are whole numbers times the product of the scales. A device that adds in wide enough integers and scales by a float32"
    yield "factor (or by a fixed-point one of 31 bits) gives the same codes, except where the value to be rounded lies so near to"
    yield "the middle between two codes that the last bits of the factor decide. These elements are marked in `T.near_tie`, and may"
    yield f"differ by one code: values within {manifest['tie_distance_of_codes']:.3g} of the number of codes from the middle. All"
    yield "others must be equal. In samples listed in `undecided_samples` an inner tensor has such an element, so each output may"
    yield "differ by one."
    yield ""
    yield "In `ties` cases nothing is marked where float32 arithmetic rounds nothing: there the rule is round half to even, and a"
    yield "device that rounds half away from zero fails."
    yield ""
    yield "An output that is not stored is compared with `float_tolerance`, relative to its largest magnitude."
    yield ""
    yield "## What a failure points at"
    yield ""
    yield "| failing | look at |"
    yield "|---|---|"
    yield "| `sums` only | an accumulator, or a pair of products, that saturates; a bias that is cut to 16 bits |"
    yield "| `ties` only | rounding of halves, in the quantizer of the input or behind the kernel |"
    yield "| cases with padding | padding with the code 0 instead of the zero point |"
    yield '| samples "beyond the range" | saturation of the input\'s quantizer |'
    yield "| one code off in many places | the scaling factor, or rounding twice |"
    if manifest["not_covered"]:
        yield ""
        yield "## Not covered"
        yield ""
        yield "| rule | what | why |"
        yield "|---|---|---|"
        for entry in manifest["not_covered"]:
            what, why = (entry[key].replace("|", "\\|") for key in ("about", "reason"))
            yield f"| {entry['rule']} ({entry['place']}) | {what} | {why} |"
