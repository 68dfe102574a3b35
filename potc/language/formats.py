"""Number formats: ``u8 sym per_tensor | none`` with all defaults filled in, and checked against what a format can hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from potc.diagnostics.source import Span
from potc.language import syntax
from potc.language.expression import Environment, ExpressionError, evaluate
from potc.language.program import INTEGERS, LARGEST_FLOAT, Alternatives, Granularity, QType, storage_limits
from potc.language.scope import Scope

MAX_TYPES = 64
_LONG = re.compile(r"(u?)int(\d+)(?:_t)?")  # as C and numpy spell integers
DEFAULT_AXIS = "out"
FeatureValue = bool | int | float


class Constants(Environment):
    """Expressions over features only."""

    def __init__(self, features: Mapping[str, FeatureValue]) -> None:
        self._features = features

    def lookup(self, name: str) -> object:
        return self._features[name]

    def field(self, obj: object, name: str) -> object:
        raise ExpressionError(f"`.{name}` means nothing here", None)


@dataclass(slots=True)
class Formats:
    """Resolves types of one device. ``named``: its ``qtype`` statements."""

    scope: Scope
    named: Mapping[str, syntax.QTypeDefinition]
    features: Mapping[str, FeatureValue]
    open: list[str] = field(default_factory=list)

    def alternatives(self, listed: syntax.TypeList) -> Alternatives:
        """All types in order, each once; an empty list only beside a told mistake or ``none``."""
        types: list[QType] = []
        allow_float = False
        for entry in listed.types:
            if isinstance(entry, syntax.NoType):
                allow_float = True
                continue
            found, floating = self._entry(entry)
            allow_float |= floating
            types.extend(t for t in found if t not in types)
        if len(types) > MAX_TYPES:
            self.scope.error(
                "impossible-type", f"{len(types)} types for one tensor", listed.span, f"list at most {MAX_TYPES}"
            )
        return Alternatives(tuple(types[:MAX_TYPES]), allow_float, listed.span)

    def _entry(self, entry: syntax.TypeForm | syntax.TypeReference) -> tuple[tuple[QType, ...], bool]:
        if isinstance(entry, syntax.TypeForm):
            made = self._form(entry)
            return (() if made is None else (made,)), False
        definition = self.named.get(entry.name)
        if definition is None:
            long = _LONG.fullmatch(entry.name)
            told = f"write `{long[1] or 'i'}{long[2]}`" if long else "check its spelling, or define it"
            self.scope.unknown("qtype", entry.name, entry.span, self.named, help=told)
            return (), False
        if entry.name in self.open:
            self.scope.error(
                "recursive-definition", f"qtype `{entry.name}` contains itself", definition.span, "write the types out"
            )
            return (), False
        self.open.append(entry.name)
        inner = self.alternatives(definition.types)
        self.open.pop()
        changed = (self._modified(t, entry.modifiers, entry.span) for t in inner.types)
        return tuple(t for t in changed if t is not None), inner.none

    def _form(self, form: syntax.TypeForm) -> QType | None:
        storage = form.storage
        if storage not in INTEGERS and storage not in LARGEST_FLOAT:
            if storage[0] in "iu":
                message = f"ONNX does not quantize to `{storage}`"
                help_ = "use 2 to 16 bits; `i32` for biases and accumulators"
            else:
                message = f"`{storage}` is what a model computes in: it has no scale, so nothing is quantized to it"
                help_ = "write `none` for a tensor that stays in float, or use `f8e4m3` or `f8e5m2`"
            self.scope.error("impossible-type", message, form.span, help_)
            return None
        lowest, highest = storage_limits(storage)
        low, high = form.limits or (lowest, highest)
        if not lowest <= low < high <= highest:
            self.scope.error(
                "impossible-type",
                f"`{storage}` holds {lowest} .. {highest}, and the range says {low} .. {high}",
                form.span,
                "give a range inside, the lower end first",
            )
            return None
        return self._modified(QType(storage, low, high, symmetric=storage[0] != "u"), form.modifiers, form.span)

    def _modified(self, base: QType, modifiers: tuple[syntax.Modifier, ...], at: Span) -> QType | None:
        made: QType | None = base
        seen: dict[str, syntax.Modifier] = {}
        for modifier in modifiers:
            kind = {"asym": "sym", "per_channel": "per_tensor", "per_block": "per_tensor"}.get(
                modifier.name, modifier.name
            )
            if kind in seen:
                self.scope.error(
                    "impossible-type",
                    f"`{seen[kind].name}` and `{modifier.name}` contradict each other",
                    modifier.span,
                    "keep one of them",
                    seen[kind].span,
                )
                return None
            seen[kind] = modifier
            made = None if made is None else self._modifier(made, modifier)
        return None if made is None else self._checked(made, at)

    def _modifier(self, base: QType, modifier: syntax.Modifier) -> QType | None:
        if modifier.name in ("sym", "asym"):
            return replace(base, symmetric=modifier.name == "sym")
        if modifier.name == "pow2":
            return replace(base, power_of_two=True)
        if modifier.name == "shared_zero_point":
            return replace(base, shared_zero_point=True)
        if modifier.name == "per_tensor":
            return replace(base, granularity=Granularity.PER_TENSOR, axis=None, block=None)
        if modifier.name == "per_channel":
            axis = self._axis(DEFAULT_AXIS if modifier.axis is None else modifier.axis, modifier.span)
            return replace(base, granularity=Granularity.PER_CHANNEL, axis=axis, block=None)
        if modifier.name == "per_block":
            if not modifier.block:
                self.scope.error(
                    "impossible-type", "a block has at least one element", modifier.span, "write `per_block(axis, 32)`"
                )
                return None
            axis = self._axis("in" if modifier.axis is None else modifier.axis, modifier.span)
            return replace(base, granularity=Granularity.PER_BLOCK, axis=axis, block=modifier.block)
        return self._fixed(base, modifier)

    def _axis(self, axis: str | int, at: Span) -> str | int:
        known = self.scope.axis_names
        if isinstance(axis, str) and axis not in known:
            self.scope.unknown_axis(axis, at, known)
        return axis

    def _fixed(self, base: QType, modifier: syntax.Modifier) -> QType | None:
        for setting in modifier.settings:
            try:
                value = evaluate(setting.value, Constants(self.features))
            except ExpressionError as error:
                self.scope.error(
                    "fixed-out-of-range", f"`{setting.name}` has no value: {error}", setting.span, "give a number"
                )
                return None
            if setting.name == "scale":
                if (
                    isinstance(value, bool)
                    or not isinstance(value, int | float)
                    or not (value > 0 and math.isfinite(value))
                ):
                    self.scope.error(
                        "fixed-out-of-range",
                        "a scale is a positive number",
                        setting.span,
                        "give a number above 0, such as `1/256`",
                    )
                    return None
                base = replace(base, scale=float(value))
            elif setting.name == "zero_point":
                if isinstance(value, bool) or not isinstance(value, int):
                    self.scope.error(
                        "zero-point-out-of-range",
                        "a zero point is a whole number",
                        setting.span,
                        "give a code of the type",
                    )
                    return None
                # Zero point 0 has one spelling, so that equal formats are equal.
                base = replace(base, zero_point=value or None, symmetric=base.symmetric or value == 0)
            else:
                self.scope.unknown("fixed parameter", setting.name, setting.span, ("scale", "zero_point"))
        return base

    def _checked(self, made: QType, at: Span) -> QType | None:
        zero = made.zero_point
        if zero is not None and not made.low <= zero <= made.high:
            self.scope.error(
                "zero-point-out-of-range",
                f"zero point {zero} is no code of {made.low} .. {made.high}",
                at,
                "give a code of the type",
            )
            return None
        if made.symmetric and zero not in (None, 0):
            self.scope.error(
                "zero-point-out-of-range", f"the zero point of a symmetric type is 0, not {zero}", at, "write `asym`"
            )
            return None
        if made.power_of_two and made.scale is not None and math.frexp(made.scale)[0] != 0.5:
            self.scope.error(
                "fixed-out-of-range",
                f"the scale {made.scale:g} is no power of two, and the type wants one",
                at,
                "give a power of two, or remove `pow2`",
            )
            return None
        if made.symmetric and not made.low <= 0 <= made.high:
            self.scope.error(
                "impossible-type",
                f"a symmetric type needs the code 0, and {made.low} .. {made.high} has none",
                at,
                "write `asym`, or another range",
            )
            return None
        if made.floating and not made.symmetric:
            self.scope.error(
                "impossible-type", f"`{made.storage}` has signed codes about 0, and no zero point", at, "write `sym`"
            )
            return None
        # Where there is one zero point anyway, that has one spelling, so that equal formats are equal.
        several = not made.symmetric and made.zero_point is None and made.granularity is not Granularity.PER_TENSOR
        return replace(made, shared_zero_point=made.shared_zero_point and several)
