"""The hardware tables of OpenVINO's Post-training Optimization Tool as data.

Source: OpenVINO 2023.3, openvino/tools/pot/configs/hardware/{cpu,gpu,vpu,npu,gna,gna3}.json. A format is "bits mode
granularity", with the range of codes where the file states one; a list is in the file's order, fastest first. Aliases
of the files (q8_a, ...) are written out. ``passes``: the operation has no formats of its own, quantizers move through
it. ``unified``: which inputs share a scale. ``outputs`` occur in the gna files only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of a table: operation types, and what the file says of them. An empty list: the file says nothing."""

    operations: tuple[str, ...]
    activations: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    unified: str = ""
    passes: bool = False


def row(
    operations: str,
    activations: str = "",
    weights: str = "",
    outputs: str = "",
    unified: str = "",
    passes: bool = False,
) -> Row:
    def formats(text: str) -> tuple[str, ...]:
        return tuple(filter(None, text.split(", ")))

    return Row(tuple(operations.split()), formats(activations), formats(weights), formats(outputs), unified, passes)


PASSED = (
    "MaxPool ReduceMax Reshape Flatten Squeeze Unsqueeze Split VariadicSplit Crop Transpose Tile StridedSlice"
    " ShuffleChannels Broadcast Pad ConvertLike DepthToSpace"
)
ARITHMETIC = (
    "Add Multiply Subtract Divide Maximum Minimum Less LessEqual Greater GreaterEqual Equal NotEqual FloorMod"
    " LogicalOr LogicalXor LogicalAnd LogicalNot"
)

Q8_A = "8 sym tensor, 8 asym tensor"
Q8_A_CHANNEL = "8 sym channel, 8 asym channel"
Q8_W = "8 sym channel -127..127, 8 asym channel"

# Maximum and Minimum have formats in the file, and the tool lets quantizers move through them as well: there the latter
# wins.
GPU = (
    row("Convolution ConvolutionBackpropData MatMul", Q8_A, Q8_W),
    row("DepthWiseConvolution", Q8_A_CHANNEL, Q8_W),
    row(ARITHMETIC, Q8_A, Q8_W),
    row("Power AvgPool NormalizeL2 ReduceMean Interpolate MVN", Q8_A),
    row("Concat", unified="all", passes=True),
    row(f"{PASSED} Gather", passes=True),
)
CPU = (
    *GPU,
    row("LSTMSequence", Q8_A, "8 sym channel -127..127", unified="0 1, 4 5"),
    row("GRUSequence", Q8_A, "8 sym channel -127..127", unified="0 1, 3 4"),
)

Q8_TN_Q4_TN = "8 asym tensor, 4 sym tensor"  # [q8_tn, q4_tn, q8_tn]: what is listed twice says nothing new
VPU_W = "8 sym channel, 4 sym channel, 2 sym channel, 8 asym channel"
VPU = (
    row("Convolution MatMul", Q8_TN_Q4_TN, VPU_W),
    row("GroupConvolutionBackpropData", "8 asym tensor", VPU_W),
    row("DepthWiseConvolution", "8 sym channel", VPU_W),
    row("Add Multiply Maximum Minimum Subtract", Q8_TN_Q4_TN, "8 sym channel, 4 sym tensor", unified="all"),
    row(
        "Less LessEqual Greater GreaterEqual Divide Equal NotEqual FloorMod LogicalOr LogicalXor LogicalAnd",
        "8 asym tensor",
        "8 sym channel",
        unified="all",
    ),
    row("LogicalNot", "8 asym tensor", "8 sym channel"),
    row("AvgPool ReduceMean", "8 sym channel"),
    row("Power NormalizeL2 Interpolate MVN", "8 asym tensor"),
    row("Concat", unified="all", passes=True),
    row(PASSED, passes=True),
)

Q16, Q32 = "16 sym tensor -32768..32767", "32 sym tensor -2147483648..2147483647"
Q16_W = "16 sym tensor -32767..32767"
FUNCTIONS = "Power Sigmoid Tanh ReLU PReLU Clamp Log Abs Exp Sign SoftSign"
GNA = (
    row("Convolution", Q16, Q16_W, Q32),
    row("MatMul", Q16, f"8 sym channel -127..127, {Q16_W}", Q32),
    row("Add Multiply", Q16, Q16_W, Q32),
    row("Subtract", Q16, Q16_W),
    row(FUNCTIONS, Q32, "", Q16),
    row("AvgPool ReduceMean Assign Result", Q16),
    row("Parameter", "", "", Q16),
    row(f"{PASSED} Concat", passes=True),
)
GNA3 = (
    row("Convolution", Q16, f"8 sym tensor -127..127, {Q16_W}", Q32),
    row("MatMul", Q16, f"8 sym channel -127..127, {Q16_W}", Q32),
    row("Add", Q16, Q16_W, Q32),
    row("Multiply", Q16, f"8 sym channel -127..127, {Q16_W}", Q32),
    row("Subtract", Q16, Q16_W, Q32),
    row(FUNCTIONS, Q32, "", Q16),
    row("AvgPool ReduceMean Assign Result", Q16),
    row("Parameter", "", "", Q16),
    row(f"{PASSED} Concat", passes=True),
)

TABLES = {"cpu": CPU, "gpu": GPU, "vpu": VPU, "gna": GNA, "gna3": GNA3}
FILES = {"cpu": "cpu", "gpu": "gpu", "vpu": "vpu", "gna": "gna", "gna3": "gna"}


# ---------------------------------------------------------------------------------------------- in ONNX


@dataclass(frozen=True)
class Form:
    """An operation type as ONNX has it: ``lines`` compute ``y`` from ``a`` and ``b`` (1 x 16 x 8 x 8), or
    from ``l`` and ``r``, which hold true or false; ``w`` is a constant of the shape ``weight``. ``stored``: further
    constants. ``reader``: what reads ``y``.
    """

    lines: str
    weight: str = ""
    stored: str = ""
    reader: str = "z = GlobalAveragePool (y)"


FLAT = "z = Gemm (y, wz)", "float[1024,16] wz"
LAST = "z = MatMul (y, wz)", "float[8,16] wz"
PLANE = "[1,16,8,8]"


def two(operator: str) -> tuple[Form, ...]:
    """An element-wise operator of two computed tensors, and of one and a constant; not directly behind convolutions,
    which might take it along."""
    c, d = (f"{name} = MaxPool <kernel_shape=[1,1]> ({source})" for name, source in (("c", "a"), ("d", "b")))
    return Form(f"{c} {d} y = {operator} (c, d)"), Form(f"{c} y = {operator} (c, w)", PLANE)


def truth(operator: str, inputs: str = "a, b") -> tuple[Form, ...]:
    return (Form(f"y = {operator} ({inputs})", reader="z = Not (y)"),)


ONNX: dict[str, tuple[Form, ...]] = {
    "Convolution": (Form("y = Conv (a, w)", "[16,16,1,1]"),),
    "DepthWiseConvolution": (Form("y = Conv <group=16> (a, w)", "[16,1,3,3]"),),
    "ConvolutionBackpropData": (Form("y = ConvTranspose (a, w)", "[16,16,2,2]"),),
    "GroupConvolutionBackpropData": (Form("y = ConvTranspose <group=2> (a, w)", "[16,16,2,2]"),),
    "MatMul": (
        Form("f = Flatten (a) y = Gemm (f, w)", "[1024,16]", "float[16,16] wz", "z = Gemm (y, wz)"),
        Form("y = MatMul (a, w)", "[8,16]"),
        Form("y = MatMul (a, b)"),
    ),
    "Add": two("Add"),
    "Multiply": two("Mul"),
    "Subtract": two("Sub"),
    "Divide": two("Div"),
    "Maximum": two("Max"),
    "Minimum": two("Min"),
    "Less": truth("Less"),
    "LessEqual": truth("LessOrEqual"),
    "Greater": truth("Greater"),
    "GreaterEqual": truth("GreaterOrEqual"),
    "Equal": truth("Equal"),
    "NotEqual": (Form("e = Equal (a, b) y = Not (e)", reader="z = Not (y)"),),
    "FloorMod": (Form("y = Mod <fmod=1> (a, b)"),),
    "LogicalOr": truth("Or", "l, r"),
    "LogicalXor": truth("Xor", "l, r"),
    "LogicalAnd": truth("And", "l, r"),
    "LogicalNot": truth("Not", "l"),
    "Power": (Form("y = Pow (a, e)", stored="float e = {2}"),),
    "AvgPool": (Form("y = AveragePool <kernel_shape=[2,2]> (a)"), Form("y = GlobalAveragePool (a)")),
    "NormalizeL2": (Form("y = LpNormalization <axis=1> (a)"),),
    "ReduceMean": (Form("y = ReduceMean <axes=[2,3]> (a)"),),
    "Interpolate": (Form('y = Resize <mode="linear"> (a, , s)', stored="float[4] s = {1, 1, 2, 2}"),),
    # onnx 1.23 infers no shapes through MeanVarianceNormalization: models with it are not valid for its checker.
    "MVN": (Form("y = InstanceNormalization (a, g, h)", stored="float[16] g, float[16] h"),),
    "LSTMSequence": (
        Form(
            "c = Squeeze (a, o) y = LSTM <hidden_size=4> (c, w, q)", "[1,16,8]", "float[1,16,4] q, int64[1] o = {0}", ""
        ),
    ),
    "GRUSequence": (
        Form(
            "c = Squeeze (a, o) y = GRU <hidden_size=4> (c, w, q)", "[1,12,8]", "float[1,12,4] q, int64[1] o = {0}", ""
        ),
    ),
    "Concat": (Form("y = Concat <axis=1> (a, b)"),),
    "MaxPool": (Form("y = MaxPool <kernel_shape=[2,2]> (a)"),),
    "ReduceMax": (Form("y = ReduceMax <axes=[2]> (a)"),),
    "Reshape": (Form("y = Reshape (a, s)", stored="int64[4] s = {1, 16, 4, 16}"),),
    "Flatten": (Form("y = Flatten (a)", "", FLAT[1], FLAT[0]),),
    "Squeeze": (Form("y = Squeeze (a, o)", "", f"int64[1] o = {{0}}, {LAST[1]}", LAST[0]),),
    "Unsqueeze": (Form("y = Unsqueeze (a, o)", "", f"int64[1] o = {{0}}, {LAST[1]}", LAST[0]),),
    "Split": (Form("y, y2 = Split <axis=1> (a) z2 = GlobalAveragePool (y2)"),),
    "VariadicSplit": (
        Form("y, y2 = Split <axis=1> (a, s) z2 = GlobalAveragePool (y2)", stored="int64[2] s = {12, 4}"),
    ),
    "Crop": (Form("y = Slice (a, s, e, d)", stored="int64[1] s = {1}, int64[1] e = {7}, int64[1] d = {2}"),),
    "StridedSlice": (
        Form(
            "y = Slice (a, s, e, d, t)", stored="int64[1] s = {0}, int64[1] e = {8}, int64[1] d = {3}, int64[1] t = {2}"
        ),
    ),
    "Transpose": (Form("y = Transpose <perm=[0,1,3,2]> (a)"),),
    "Tile": (Form("y = Tile (a, s)", stored="int64[4] s = {1, 1, 2, 1}"),),
    "ShuffleChannels": (
        Form(
            "c = Reshape (a, s) d = Transpose <perm=[0,2,1,3,4]> (c) y = Reshape (d, t)",
            stored="int64[5] s = {1, 2, 8, 8, 8}, int64[4] t = {1, 16, 8, 8}",
        ),
    ),
    "Broadcast": (Form("y = Expand (a, s)", stored="int64[4] s = {2, 16, 8, 8}"),),
    "Pad": (
        Form("y = Pad (a, s)", stored="int64[8] s = {0, 0, 1, 1, 0, 0, 1, 1}"),
        Form('y = Pad <mode="reflect"> (a, s)', stored="int64[8] s = {0, 0, 1, 1, 0, 0, 1, 1}"),
    ),
    "ConvertLike": (Form("y = CastLike (a, b)"),),
    "Gather": (Form("y = Gather <axis=1> (a, s)", stored="int64[3] s = {3, 5, 7}"),),
    "DepthToSpace": (Form("y = DepthToSpace <blocksize=2> (a)"),),
    "Sigmoid": (Form("y = Sigmoid (a)"),),
    "Tanh": (Form("y = Tanh (a)"),),
    "ReLU": (Form("y = Relu (a)"),),
    "PReLU": (Form("y = PRelu (a, e)", stored="float e = {0.1}"), Form("y = LeakyRelu (a)")),
    "Clamp": (Form("y = Clip (a, e, f)", stored="float e = {0}, float f = {6}"),),
    "Log": (Form("y = Log (a)"),),
    "Abs": (Form("y = Abs (a)"),),
    "Exp": (Form("y = Exp (a)"),),
    "Sign": (Form("y = Sign (a)"),),
    "SoftSign": (Form("y = Softsign (a)"),),
    "Assign": (),  # state is an input and an output of an ONNX model
    "Parameter": (),  # the model's inputs
    "Result": (),  # the model's outputs
}


# ---------------------------------------------------------------------------------------------- deliberate differences


@dataclass(frozen=True)
class Difference:
    """Where a rule file says something else than the table. ``ours``: what it says (formats, "pass" or "float")."""

    devices: str
    operations: str
    aspect: str  # "kind" (kernel, pass or float), "activations", "weights", "outputs" or "unified"
    ours: str
    reason: str


TRUTH = "Less LessEqual Greater GreaterEqual Equal NotEqual"
LOGIC = "LogicalOr LogicalXor LogicalAnd LogicalNot"
SUMS = "Add Multiply Subtract Divide Maximum Minimum"

DIFFERENCES: tuple[Difference, ...] = (
    # -- all devices
    Difference(
        "cpu gpu vpu",
        TRUTH,
        "kind",
        "float",
        "the result is true or false: no number format, and comparing codes saves nothing",
    ),
    Difference(
        "cpu gpu vpu", LOGIC, "kind", "float", "operands and result are true or false, which have no number format"
    ),
    Difference("cpu gpu vpu", "FloorMod", "kind", "float", "rounding its operands moves the result by a whole period"),
    Difference(
        "cpu gpu vpu gna gna3",
        "ConvertLike",
        "kind",
        "float",
        "a conversion between equal float types is no operator of opset 13",
    ),
    Difference(
        "gna gna3",
        "Assign",
        "kind",
        "float",
        "state is an input and an output of an ONNX model, which have their formats",
    ),
    Difference(
        "gpu vpu",
        "Pad",
        "kind",
        "kernel / pass",
        "zeros fit every scale and other constants do not: a kernel with one scale for both sides",
    ),
    # -- weights
    Difference(
        "cpu gpu",
        "Convolution MatMul DepthWiseConvolution",
        "weights",
        "8 sym channel -127..127",
        "weights with a zero point cost the kernels a correction by the sum of the activations (1.3 to 1.5 "
        "times the time on cpu) and can not be narrowed against saturation",
    ),
    Difference(
        "gpu",
        "ConvolutionBackpropData",
        "weights",
        "8 sym channel -127..127",
        "weights with a zero point cost the kernel a correction by the sum of the activations",
    ),
    Difference(
        "vpu",
        "Convolution MatMul",
        "weights",
        "8 sym channel, 4 sym channel",
        "2-bit codes are no type of ONNX before opset 25, and a zero point common to all channels has no form "
        "in the file",
    ),
    Difference(
        "vpu",
        "DepthWiseConvolution",
        "weights",
        "8 sym channel",
        "4 bits would save little of a few weights and cost accuracy",
    ),
    Difference(
        "vpu",
        "GroupConvolutionBackpropData",
        "weights",
        "8 sym tensor",
        "no axis of the weight in ONNX holds the output channels of all groups",
    ),
    # -- activations
    Difference(
        "cpu",
        "DepthWiseConvolution",
        "activations",
        "8 sym tensor, 8 asym tensor",
        "onnxruntime fuses no depthwise convolution whose activations have a scale per channel",
    ),
    Difference(
        "gpu",
        "DepthWiseConvolution",
        "activations",
        "8 sym tensor",
        "a scale per channel of an activation has no fused kernel in any ONNX runtime",
    ),
    Difference(
        "vpu",
        "DepthWiseConvolution AvgPool ReduceMean",
        "activations",
        "8 asym tensor",
        "a scale per channel of an activation has no fused kernel in any ONNX runtime",
    ),
    Difference(
        "gpu",
        "Convolution ConvolutionBackpropData MatMul Add Multiply Subtract Divide Maximum Minimum Power "
        "AvgPool NormalizeL2 ReduceMean Interpolate MVN Pad",
        "activations",
        "8 sym tensor",
        "zero points of activations cost the dot products a correction that symmetric ones do not need",
    ),
    Difference(
        "vpu",
        "Convolution Add Multiply Maximum Minimum Subtract",
        "activations",
        "8 asym tensor",
        "the file lists 8 bits first and last: 4-bit activations are never chosen",
    ),
    Difference(
        "vpu",
        "MatMul",
        "activations",
        "8 asym tensor / 8 sym tensor",
        "two computed factors are symmetric, as the ancestor makes them where it is told of a transformer",
    ),
    Difference(
        "vpu", "Pad", "activations", "8 asym tensor", "the kernel that pads with zeros has the formats of the others"
    ),
    # -- element-wise operators with a constant
    Difference(
        "cpu",
        "Add Multiply",
        "weights",
        "float",
        "onnxruntime has kernels with one scale for the constant only, and the tool ignores a constant "
        "operand behind weighted operators as well",
    ),
    Difference(
        "gpu",
        SUMS,
        "weights",
        "float",
        "the epilogue in front takes the constant along in float; the tool ignores a constant operand behind "
        "weighted operators as well",
    ),
    Difference("vpu", SUMS, "weights", "float", "the constant would have to share the scale of the other operand"),
    Difference(
        "gna3",
        "Multiply",
        "weights",
        "16 sym tensor -32767..32767",
        "an operand of a product has no output channel, and 8 bits with one scale lose small factors",
    ),
    # -- what onnxruntime's CPU provider lacks
    Difference(
        "cpu",
        "ConvolutionBackpropData Subtract Divide Maximum Minimum Power NormalizeL2 ReduceMean Interpolate MVN",
        "kind",
        "float",
        "onnxruntime's CPU provider has no 8-bit kernel of it: it would run in float between two conversions",
    ),
    Difference(
        "cpu",
        "Pad",
        "kind",
        "float",
        "onnxruntime pads in float; zeros in front of a convolution become its own padding",
    ),
    Difference(
        "cpu",
        "LSTMSequence GRUSequence",
        "kind",
        "float",
        "onnxruntime fuses no quantize and dequantize pairs into recurrent operators",
    ),
    # -- shared scales
    Difference("cpu", "Concat", "kind", "kernel", "onnxruntime's kernel rescales while it copies"),
    Difference(
        "cpu", "Concat", "activations", "8 sym tensor, 8 asym tensor", "it is a kernel, with formats of its own"
    ),
    Difference("cpu", "Concat", "unified", "", "the kernel rescales, so the inputs keep finer scales of their own"),
    Difference(
        "gpu",
        "Maximum Minimum",
        "unified",
        "all",
        "codes are compared; the tool moves quantizers through, which shares the scale too",
    ),
)
