"""The Plan: which tensors become integer, in which formats, shared with whom, and because of which rule. Data only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from potc.language.program import Granularity, QType
from potc.match.record import record


@record
class Origin:
    """Why: the rule that asked, where it stands (``cpu.rules:26``), and what for in words."""

    rule: str
    place: str
    reason: str


@record
class Quantizer:
    """One scale and zero point, shared by all ``tensors`` (activations; names, in topological order).

    ``observed``: the tensors whose values must be seen to know the range of the class (the others hold a subset of the
    same values). ``types``: what every member allows, preferred first; which one is taken is known after calibration.
    ``within``: the ends of all numbers that the observed tensors can hold; None where nobody says.
    """

    id: int
    tensors: tuple[str, ...]
    observed: tuple[str, ...]
    types: tuple[QType, ...]
    origins: tuple[Origin, ...]
    within: tuple[float, float] | None = None


@record
class Insertion:
    """A quantize/dequantize pair on ``tensor``. ``consumers``: the (node name, input port) that read the dequantized
    value; None means that every reader does, the model output included."""

    tensor: str
    quantizer: int
    consumers: tuple[tuple[str, int], ...] | None


@dataclass(frozen=True, slots=True)
class Lanes:
    """Products are added ``lanes`` at a time into a saturating ``storage`` ("i16").

    The weights of one output channel are flattened with ``order`` (axis numbers of the weight, slowest first, the
    channel axis left out); neighbours in groups of ``lanes``, counted from the start, share a lane.
    """

    storage: str
    lanes: int
    order: tuple[int, ...]


@record
class ConstantQuantizer:
    """A constant input of one node that is stored as integers behind a DequantizeLinear.

    ``axis``: the axis of the scales of the first type that has several (0 <= axis < rank), None for per-tensor; ``axes``:
    what types call their axes, and which those are, where they are not all one. ``factors``: for a bias, the inputs of the same
    kernel whose scales multiply to this one's: activations as quantizer ids, constants as indices into
    ``Plan.constants``. ``sums``: for a bias of products that have more bits than those of 8-bit numbers, the tensor that holds the
    whole sum, which must fit as well; else "".
    """

    tensor: str
    node: str
    port: int
    types: tuple[QType, ...]
    axis: int | None
    role: str
    factors: tuple[tuple[str, int], ...]  # ("activation", quantizer id) | ("constant", index)
    lanes: tuple[Lanes, ...]
    origins: tuple[Origin, ...]
    axes: tuple[tuple[str | int, int], ...] = ()
    sums: str = ""

    def axis_of(self, qtype: QType) -> int | None:
        """The axis along which a type has its scales; None where it has one scale."""
        if qtype.granularity is Granularity.PER_TENSOR:
            return None
        return next((axis for name, axis in self.axes if name == qtype.axis), self.axis)


@dataclass(frozen=True, slots=True)
class Window:
    """How the taps of a kernel are laid on its input, in the words of ONNX, by axis of the kernel; ``pads``: all beginnings,
    then all ends. ``spreads``: inputs are spread over results, instead of results gathered from inputs; ``output_shape``
    empty: not given.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    spreads: bool
    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...]

    def __str__(self) -> str:
        """Equal for equal windows: ``3x3/2 dilations 1x1 pads 1,1,1,1 NOTSET``."""
        kernel, strides, dilations = ("x".join(map(str, n)) for n in (self.kernel, self.strides, self.dilations))
        text = f"{kernel}/{strides} dilations {dilations} pads {','.join(map(str, self.pads))} {self.auto_pad}"
        if not self.spreads:
            return text
        sizes = (",".join(map(str, n)) for n in (self.output_padding, self.output_shape))
        return f"{text} spread {' '.join(sizes)}"


@record
class Correction:
    """A bias that can take over what rounding its kernel's weights shifts on average.

    ``bias`` and ``weight`` are indices into ``Plan.constants``; ``tensor`` is the activation that the weight multiplies, of
    rank ``rank``, with its channels along ``channel``, read by input ``port`` of the weight's node. ``summed`` and ``out`` are
    the axes of the weight along which input channels are summed, and output channels lie. ``window``: how further axes of the
    weight meet positions, None where it has none that matter; ``lengths``: of the input along them, None if not fixed.
    """

    bias: int
    weight: int
    tensor: str
    port: int
    rank: int
    channel: int
    summed: int
    out: int
    window: Window | None = None
    lengths: tuple[int, ...] | None = None

    @property
    def seen(self) -> str:
        """The name of the means that it needs: corrections that look at one tensor in the same way share them."""
        where = "" if self.channel == 1 else f" axis {self.channel}"
        return f"{self.tensor}{where}" if self.window is None else f"{self.tensor} by {self.window}"


@record
class Absent:
    """A bias that a kernel takes and the model leaves out: as a vector of ``length`` zeros it could be corrected.

    ``constant`` and ``correction`` are what the plan would hold of it; the latter's ``bias`` is the index of this entry.
    """

    constant: ConstantQuantizer
    correction: Correction
    length: int


@record
class Product:
    """Sums of products that no bias is part of. ``factors``: as those of a bias; ``sums``: the tensor that holds them; ``most``:
    the largest code of what they are added up in."""

    factors: tuple[tuple[str, int], ...]
    sums: str
    most: int


@record
class Kernel:
    """A match that was taken: the nodes it covers (names, in data-flow order) and what its captures are bound to."""

    rule: str
    place: str
    nodes: tuple[str, ...]
    bindings: tuple[tuple[str, str], ...]


@record
class Left:
    """A node that stays in float, and why: one reason per rule that came near, or that no rule speaks of its operator."""

    node: str
    operator: str
    reasons: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was decided before any sample was seen. Equal inputs give equal plans, whatever the names and order.

    ``rectified``: those of the observed tensors that can't hold a negative number, in their order.
    """

    device: str
    quantizers: tuple[Quantizer, ...]
    insertions: tuple[Insertion, ...]
    constants: tuple[ConstantQuantizer, ...]
    kernels: tuple[Kernel, ...]
    left: tuple[Left, ...]
    corrections: tuple[Correction, ...] = ()
    absent: tuple[Absent, ...] = ()
    rectified: tuple[str, ...] = ()
    products: tuple[Product, ...] = ()

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of the tensors whose ranges become scales, each once, in plan order."""
        return tuple(dict.fromkeys(t for q in self.quantizers for t in q.observed))

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the tensors that calibration must see, each once: those, and sums that must fit into an accumulator."""
        biases = (*self.constants, *(a.constant for a in self.absent))
        return tuple(dict.fromkeys((*self.stored, *(c.sums for c in (*biases, *self.products) if c.sums))))

    def filled(self) -> Plan:
        """The same with the absent biases as constants, behind all others; of a model that has them (see ``biases.py``)."""
        first = len(self.constants)
        corrections = (replace(a.correction, bias=first + a.correction.bias) for a in self.absent)
        constants = (*self.constants, *(a.constant for a in self.absent))
        return replace(self, constants=constants, corrections=(*self.corrections, *corrections), absent=())
