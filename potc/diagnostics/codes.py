"""Every diagnostic code: what it means, and what to do. A code is a diagnostic's only identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """``meaning`` is one sentence; ``help`` tells how to get out of it; ``chapter`` says who finds it."""

    name: str
    meaning: str
    help: str
    chapter: str

    def __str__(self) -> str:
        return f"{self.meaning}\n{self.help}"


_LANGUAGE = {
    "syntax-error": (
        "The text is not a rule file as the grammar has it.",
        "Look at the marked place and a little before it; a brace, comma or keyword is missing or too many.",
    ),
    "missing-file": (
        "A file that was named does not exist or can't be read.",
        "Check the path.",
    ),
    "import-cycle": ("Rule files use one another in a circle.", "Move what both need into a third file."),
    "missing-device": (
        "The file defines no device that could be compiled for.",
        "Add `device NAME { ... }`; abstract devices don't count.",
    ),
    "duplicate-name": (
        "One name is defined twice where it can mean one thing only.",
        "Rename one of them, or write `override rule` to replace an inherited rule.",
    ),
    "unknown-name": ("A name is used that nothing defines.", "Check its spelling, or `use` the file that defines it."),
    "unbound-name": (
        "A rule speaks of a tensor that its pattern does not capture.",
        "Capture it in `match`, or check its spelling.",
    ),
    "unused-capture": (
        "A pattern captures a tensor of which the rule never speaks.",
        "Write `_` in its place, or begin the name with `_`.",
    ),
    "unreached-line": (
        "A line of a pattern does not lead to its last line, where matching begins.",
        "Use the line's result, or remove the line.",
    ),
    "recursive-definition": (
        "A definition contains itself, or is too long once written out.",
        "Patterns, predicates, sets, qtypes and devices have no recursion.",
    ),
    "unknown-operator": (
        "ONNX has no such operator in some opset of the device.",
        "Check the name and the device's `opset`; operators of vendors are written `domain::Name`.",
    ),
    "unknown-attribute": ("The operator has no such attribute.", "Check the name against the ONNX operator's page."),
    "unknown-port": (
        "An `op` statement names an input or output that the operator has not.",
        "Use the names of the ONNX schema, in its order.",
    ),
    "wrong-arity": (
        "An operator, pattern or function is given too many or too few arguments.",
        "Give as many as it takes.",
    ),
    "attribute-became-input": (
        "The operator takes this as an attribute in some opsets of the device and as an input in others.",
        "Capture it as an input, or narrow the device's `opset`.",
    ),
    "impossible-type": (
        "A number format contradicts itself, or is none that tensors are quantized to.",
        "Keep the range inside of the storage type, and one of `sym` and `asym`, of `per_tensor` and `per_channel`.",
    ),
    "impossible-opset": ("The device states no opset range, or an empty one.", "State `opset ai.onnx 13 .. 25`."),
    "impossible-pattern": (
        "A pattern is larger than any kernel, or can't be laid on any graph.",
        "Match fewer nodes; begin with an operator that is always there, and say where a step takes the one before.",
    ),
    "impossible-speedup": (
        "`speedup` is not one factor above 0.",
        "Write how many times faster the kernel is than float.",
    ),
    "zero-point-out-of-range": (
        "A fixed zero point is no code of its type.",
        "Give a whole number inside of the type's range; symmetric types have 0.",
    ),
    "fixed-out-of-range": ("A fixed scale is not a positive number.", "Give a number above 0, such as `1/256`."),
    "wrong-setting": (
        "A feature is given a value of another type than its own.",
        "Give `true` or `false`, or a number, as the feature's definition says.",
    ),
    "pass-and-quant": (
        "An operator is declared twice with meanings that exclude each other: pass-through, float, or a kernel.",
        "Take it out of one of the statements, or narrow one.",
    ),
    "circular-prefer": ("`prefer` statements put a rule above itself.", "Remove one of the circle."),
    "extern-not-allowed": (
        "A condition is a Python function, and the file that holds it was not given on the command line.",
        "Give the file by `--extern FILE.py` if you trust it; rule files run no code by themselves.",
    ),
    "extern-failed": (
        "The Python function of an `extern pred` can't be had.",
        'Write `from "FILE:FUNCTION"`, and check that the file runs and defines that function.',
    ),
    "missing-match": ("A rule or rewrite has no pattern, or a statement that its kind can't have.", "Add `match`."),
    "missing-result": (
        "A rewrite does not emit what its pattern calls the result.",
        "Emit the name after the last `as`, in the last line.",
    ),
    "duplicate-rule": (
        "Two rules match the same kernels and say the same of them.",
        "Remove one of them.",
    ),
    "unreachable-rule": (
        "A rule, an alternative or an optional step that can never win: nothing matches it, or something else always does.",
        "Remove it, or what excludes it.",
    ),
    "float-never-wins": (
        "A `float` statement that never takes effect: nothing matches it, or a rule always wins over it.",
        "Remove it, or prefer it over the rule.",
    ),
    "overflowing-accumulator": (
        "An accumulator of the device can't even hold the sum of two products of these number formats.",
        "Allow narrower types in `quant`, or state a wider accumulator.",
    ),
    "different-lanes": (
        "Two accumulators add neighbours in different orders, and weights can be made safe for one order only.",
        "State one order in both `accum` statements, or one lane in one of them.",
    ),
    "empty-meet": (
        "Statements that must agree on a number format allow none in common.",
        "Allow a common type on both sides, or state `requantize` if the device can convert.",
    ),
    "widened-limit": (
        "An `override` allows more than the rule that it replaces.",
        "Repeat the parent's limits; if the device really can do more, say why in a `note`.",
    ),
    "untested-rule": (
        "No `test` of the file reaches the rule.",
        "Add a `test` whose graph holds the rule's operator, or `expect rule ... covers` it.",
    ),
    "missing-reason": (
        "A statement that people will ask about gives no reason.",
        'Add `else "..."` to `require`, `because "..."` to `prefer`, a `note` to `float`.',
    ),
    "never-fired": (
        "A rule matches in none of the given models.",
        "Look whether its conditions are too narrow, or give models that have its kernel.",
    ),
    "impossible-parent": (
        "A device extends a meet of devices, which has no rules of its own.",
        "Extend one of the devices of the meet, or compute the meet from devices that extend them.",
    ),
}

_MATCH = {
    "overlapping-rules": (
        "Two rules match the same nodes, and nothing says which one wins.",
        'Add `prefer A over B because "..."`, or narrow one of them.',
    ),
    "endless-rewrite": (
        "A rewrite keeps matching what it has made.",
        "State `once`, or let each application leave fewer nodes that it matches.",
    ),
    "failing-emit": (
        "A rewrite matched, and its right side could not be computed.",
        "Add a `require` that excludes this case.",
    ),
    "wrong-rewrite": (
        "The two sides of a rewrite compute different results on a graph that was drawn from its left side.",
        "Compare the two graphs, and correct `emit` or exclude the case by `require`.",
    ),
}

_GRAPH = {
    "empty-model": ("The model holds no nodes.", "Export the model again."),
    "invalid-model": ("The model breaks a rule of ONNX.", "Export the model again, or report it to the exporter."),
    "truncated-model": ("The file is cut off, damaged, or no ONNX file.", "Copy or export it again."),
    "cyclic-graph": ("Nodes of the model feed themselves.", "A graph must run from inputs to outputs."),
    "external-data-outside": (
        "The model names a weight file outside of its own folder.",
        "Put the data file beside the model.",
    ),
    "non-finite-weights": (
        "A weight is NaN, or one that is to be quantized is infinite.",
        "Train or export the model again.",
    ),
    "opset-not-raised": (
        "The model could not be brought to the opset that the output needs.",
        "Export the model with a later opset.",
    ),
    "too-large": (
        "Something is larger than it may be.",
        "Allow more with `--limit`, or keep weights in external data.",
    ),
    "memory-too-small": (
        "A layer needs more memory than `--memory` leaves for it.",
        "State more memory, or give smaller samples.",
    ),
    "unsupported-input": ("An input of the model is no tensor.", "Export the model with tensor inputs."),
    "invalid-configuration": (
        "`potc.toml`, or `tool.potc` in `pyproject.toml`, can't be used.",
        "Correct it, or give `--isolated`.",
    ),
    "unwritable-output": ("The output can't be written.", "Check that the folder exists and the disk has room."),
}

_DATA = {
    "no-samples": ("There are no samples to calibrate with.", "Give samples by `--data`."),
    "wrong-data-names": (
        "The arrays of the samples are not named like the model's inputs.",
        "Name each array like the input it feeds.",
    ),
    "wrong-data-shape": (
        "Samples have another shape than the model takes.",
        "The first axis counts samples, the rest is what the model takes.",
    ),
    "wrong-data-type": (
        "Samples have another element type than the model takes.",
        "Store the samples as the model takes them, after preprocessing.",
    ),
    "invalid-data": ("The sample file is damaged, or no file that potc reads.", "Write it again with `numpy.savez`."),
    "non-finite-data": ("A sample, a constant or a result is NaN or infinite.", "Repair or leave out that sample."),
    "float-border": (
        "An input or output of the model can't be integer: the device wants its float values, or stores it otherwise.",
        "Leave it in float with `--io NAME=float`, or choose another format in `graph input` or `graph output`.",
    ),
    "unrunnable-model": ("onnxruntime can't load a model.", "Try the model in onnxruntime alone first."),
    "sample-failed": ("onnxruntime failed on a sample.", "Check names, shapes and types of the samples."),
    "invalid-preprocessing": (
        "What is declared to be done to samples is unknown, impossible for them, or missing.",
        "Declare it with `--preprocess`; docs/reference/data.md lists the settings.",
    ),
    "python-failed": (
        "Python code of the user failed, or has not what was named.",
        "Run the file with python, and repair it.",
    ),
    "missing-package": (
        "A package is needed that is not installed, because only some users need it.",
        "Install it with `pip`, as the message says.",
    ),
    "invalid-metric": ("There is no such metric, or it has no such setting.", "See docs/reference/metrics.md."),
    "no-annotation": (
        "A metric compares answers with annotations, and the samples have none.",
        "Give labels, or a metric that compares with the float model, like `sqnr`.",
    ),
    "metric-failed": (
        "A metric could not make a record of an answer, or a number of its records.",
        "Check that the annotations and the output are what the metric takes.",
    ),
    "worker-lost": (
        "Workers die of a sample, again and again.",
        "Leave that sample out, or give the workers more memory.",
    ),
    "too-few-samples": (
        "The evaluation samples are too few to show what `--confidence` asks for.",
        "Give more `--eval-data`, a larger `--max-drop`, a lower `--confidence`, or fewer `--evaluations`.",
    ),
    "no-cluster": ("The workers of `--cluster` can't be reached.", "Start a scheduler, and check its address."),
}

_QUANTIZE = {
    "no-legal-type": (
        "None of the types that the rules allow can hold a tensor.",
        "Allow another type in `quant`, or keep the tensor in float.",
    ),
    "unsupported-type": ("A type that the rules allow can't be lowered yet.", "Allow another type."),
    "saturating-accumulator": (
        "Sums of products don't fit into an accumulator of the device.",
        "Narrow the weights' range, or check the `accum` statements.",
    ),
    "bias-overflow": ("A bias does not fit into its derived scale.", "Let the bias stay float by `| none`."),
    "range-too-small": (
        "The values of a tensor are so close to 0 that no scale can tell them apart, and the outputs depend on them.",
        "Scale the model so that its tensors are near 1, or keep the tensor's nodes in float.",
    ),
    "dead-output": (
        "With the ranges that were chosen, or the device's formats, the outputs of the compiled model have nothing to do with the "
        "float model's.",
        "Choose ranges that cut off less, try --equalize, or keep the layer that is named in float.",
    ),
    "ranges-do-not-fit": (
        "Saved ranges were measured on another model, or lack what this compile needs.",
        "Calibrate again with --data, and save with --save-ranges.",
    ),
    "not-ranges": ("The file holds no ranges of a calibration.", "Calibrate again."),
    "unknown-version": ("The file was written by another version of potc.", "Make it again with this version."),
    "invalid-plan": ("The file is not a plan that this potc reads.", "Make the plan again."),
}

_LEGAL = {
    "format-not-allowed": (
        "A tensor is stored in a format that the device's rule does not allow there.",
        "Quantize with one of the formats that the rule lists.",
    ),
    "must-be-stored": (
        "A kernel of the device wants integers where the model holds floats.",
        "Quantize the tensor, or leave the whole kernel in float.",
    ),
    "must-stay-float": (
        "The model stores as integers what the device's rules keep in float.",
        "Remove the quantizer of this tensor.",
    ),
    "requirement-violated": (
        "A quantized operator is beyond a limit of the device's kernel.",
        "Leave the operator in float, or change the model so that the limit holds.",
    ),
    "scales-differ": (
        "Tensors that must share one scale and zero point have different ones.",
        "Quantize them with one set of parameters.",
    ),
    "wrong-derived-scale": (
        "A bias has another scale than the product of the scales that it is derived from.",
        "Store it with the product of the input's and the weight's scale.",
    ),
    "no-kernel": (
        "No kernel of the device asks for a quantizer that the model has.",
        "Remove the quantizer, or add a rule for the operator.",
    ),
    "unknown-form": (
        "An operator computes from integers in a way that can't be read as float operators with constant scales.",
        "Quantize statically, in QDQ form.",
    ),
}

_IMPORT = {
    "invalid-hardware-file": (
        "The file is not a hardware description that potc imports.",
        "Give the JSON of POT or NNCF; the place that is marked is where it differs.",
    ),
    "not-carried-over": (
        "A part of an imported file has no counterpart among rules, and was left out.",
        "Read whether the device needs it, and write a rule if so.",
    ),
    "repeated-entry": (
        "An imported file speaks of one operation type twice; tools that read such files keep the last entry only.",
        "Check which of the two is meant.",
    ),
    "repeated-format": (
        "An imported file lists one number format twice for one tensor; the first place counts.",
        "Remove the repetition.",
    ),
}

_TEST = {
    "invalid-test": (
        "The graph of a test can't be read, or the test contradicts itself.",
        "Write the graph as ONNX text, and declare each weight behind the outputs.",
    ),
    "failed-expectation": (
        "The rules do something else than a test expects.",
        "Correct the rule or the expectation; `potc test --update` writes what was found.",
    ),
    "failed-fuzz": (
        "A graph that was drawn from a rule's own pattern is not treated as the rule says.",
        "Make a test of the graph, and correct the rule.",
    ),
}

_COMMAND = {
    "unknown-node": (
        "The model has no node of this name, before or after preparation.",
        "Look at the names in the model; unnamed nodes are called after their operator and position, like `Relu_3`.",
    ),
    "unknown-tensor": (
        "The model has no tensor of this name, before or after preparation.",
        "Look at the names in the model; a node and its result may have different ones.",
    ),
    "no-symptom": (
        "A model that is to be reduced does not fail, or not as was said.",
        "Give the options with which it fails.",
    ),
    "usage": ("The command line is not understood.", "See `potc --help`."),
}

CODES: Mapping[str, Code] = {
    name: Code(name, meaning, help_, chapter)
    for chapter, entries in (
        ("language", _LANGUAGE),
        ("match", _MATCH),
        ("graph", _GRAPH),
        ("data", _DATA),
        ("quantize", _QUANTIZE),
        ("legal", _LEGAL),
        ("import", _IMPORT),
        ("test", _TEST),
        ("command", _COMMAND),
    )
    for name, (meaning, help_) in entries.items()
}


def help_of(code: str) -> str | None:
    """What to do about a diagnostic that does not say it itself, as a help line; None for an unknown code."""
    found = CODES.get(code)
    return None if found is None else found.help[0].lower() + found.help[1:].removesuffix(".")
