"""Which cases a rule needs: each variant of its pattern, each format, each limit from both sides, the largest sums, ties."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from potc.diagnostics.source import Span
from potc.graph.model import Model
from potc.language.program import OpStatement, PatternNode, Program, Rule
from potc.language.syntax import Expr
from potc.language.text import text
from potc.legal.judge import judge
from potc.sketch.constraints import Constraint, constraints
from potc.sketch.draw import Sketch, draw, draw_broken, excluded
from potc.sketch.variants import Variant, newest, variants
from potc.workbench.boundaries import Pin, beyond, inside
from potc.workbench.exact import Grid
from potc.workbench.scenes import Draw, Scene, Stage, varied, with_requires
from potc.workbench.suite_build import Compiled, Style, Unbuildable, compile_scene, extreme_constants, formats
from potc.workbench.suite_expect import Expected, expect
from potc.workbench.suite_rules import (
    away_from_default,
    forms_of_passing,
    passing_rule,
    powers_of_two,
    relaxed,
    replace_rule,
)

MOST_VARIANTS = 40
SEEDS = 3  # drawings that are tried for one variant
FORMATS = tuple(
    Style(signs, preset) for preset in ("performance", "mixed", "accuracy") for signs in ("normal", "positive")
)


@dataclass(frozen=True, slots=True)
class Case:
    """``kind``: "variant", "format", "attribute", "limit", "beyond", "sums", "ties", "read", "pass" or "float".

    ``runs``: the device must run the nodes as this kernel (of "float" cases: in float); False: it must not. ``legal``:
    what potc verify says of the model. ``about``: what the case is about, for people.
    """

    kind: str
    rule: str
    span: Span
    about: str
    compiled: Compiled
    expected: Expected
    runs: bool
    legal: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """What should have a case and has none, and why."""

    rule: str
    span: Span
    about: str
    reason: str


Found = Case | Missing


def cases_of_rule(stage: Stage, part: Program, rule: Rule) -> Iterator[Found]:
    """All cases of one rule of a device, or of one part of a meet."""
    if rule.keep:
        yield Missing(rule.qualified, rule.span, "the statement", "it names tensors, and is no kernel of its own")
        return
    maker = _Maker(stage, part, rule)
    yield from maker.floats() if rule.is_float else maker.kernels()


def cases_of_pass(stage: Stage, part: Program, statement: OpStatement) -> Iterator[Found]:
    """One case for each operator that passes codes through."""
    for op in sorted(statement.ops):
        maker = _Maker(stage, part, passing_rule(part, statement, op))
        yield from maker.passes(op)


@dataclass(slots=True)
class _Maker:
    """The cases of one rule."""

    stage: Stage
    part: Program
    rule: Rule

    # ------------------------------------------------------------------------------------------ kernels

    def kernels(self) -> Iterator[Found]:
        plain: tuple[Variant, Case] | None = None
        for variant in self._variants():
            found = self._variant(variant)
            if isinstance(found, Case) and plain is None:
                plain = variant, found
            yield found
        if plain is None:
            return
        variant, case = plain
        yield from self._formats(case)
        yield from self._read(variant, case)
        yield from self._attributes(variant)
        yield from self._limits()
        yield from self._sums()
        yield from self._ties(variant)

    def _variant(self, variant: Variant) -> Found:
        about = f"the pattern taken as {variant.words}"
        found: Found = self._missing(about, "no graph was found in which the device takes it")
        for seed in range(SEEDS):
            scene = self._scene(self._drawing(self.rule, variant, (seed,)))
            if scene is not None:
                found = self._case("variant", about, scene, Style())
            if isinstance(found, Case):
                break
        return found

    def _variants(self) -> list[Variant]:
        listed = [v for v in variants(self.rule.pattern) if not excluded(self.part, self.rule, v)]
        return listed[:MOST_VARIANTS]

    def _formats(self, case: Case) -> Iterator[Found]:
        """Other formats that the rule allows for the same graph."""
        scene = case.compiled.scene
        seen = {_formats_of(case.compiled)}
        for style in FORMATS:
            for compiled in self._compiled(scene, style):
                found = _formats_of(compiled)
                if found not in seen:
                    seen.add(found)
                    words = ", ".join(f"{name}: {words}" for name, words in formats(compiled).items())
                    yield self._case("format", f"other formats: {words}", scene, style)

    def _compiled(self, scene: Scene, style: Style) -> Iterator[Compiled]:
        try:
            yield compile_scene(self.stage.program, scene, style, self.stage.seed)
        except Unbuildable:
            return

    def _read(self, variant: Variant, case: Case) -> Iterator[Found]:
        """A result that may stay in float, where a kernel behind it reads it stored."""
        scene = case.compiled.scene
        result = self.rule.pattern.result
        tensors = scene.bindings.get(str(result), ())
        if not tensors or scene.stores(tensors[0]):
            return
        for model in self.stage.read_by_kernel(scene.model.proto, tensors[0]):
            found = self.stage.scene(scene.sketch(), model)
            if found is not None and found.takes(self.rule.qualified) and found.stores(tensors[0]):
                yield self._case("read", f"`{result}` is read by another kernel, which wants it stored", found, Style())
                return

    def _attributes(self, variant: Variant) -> Iterator[Found]:
        """Each attribute of the first operator away from its default, where the rule leaves that open."""
        first = self.rule.pattern.nodes[0]
        schema = newest(variant.ops[0])
        if self.rule.pattern.others or schema is None:
            return
        place = variants(self.rule.pattern).index(variant)
        for _, attribute in sorted(schema.attributes.items()):
            for condition in away_from_default(attribute, first.span):
                pinned = replace(first, conditions=(*first.conditions, condition))
                pattern = replace(self.rule.pattern, nodes=(pinned, *self.rule.pattern.nodes[1:]))
                rule = replace(self.rule, pattern=pattern)
                scene = self._scene(self._drawing(rule, variants(pattern)[place], (0,)))
                found = None if scene is None else self._case("attribute", f"`{text(condition)}`", scene, Style())
                if isinstance(found, Case):  # what a schema allows need not mean anything to an operator
                    yield found
                    break

    # ------------------------------------------------------------------------------------------ limits

    def _limits(self) -> Iterator[Found]:
        for constraint in constraints(self.rule):
            if constraint.condition is None or constraint.late or constraint.kind not in ("require", "condition"):
                continue
            what = "require" if constraint.kind == "require" else "condition"
            stated = f"{what} {constraint.words} at its boundary"
            for pin in inside(constraint.condition):
                yield from self._at_limit(constraint, pin, f"{stated}: {pin.words}")
            for pin in beyond(constraint.condition):
                yield from self._beyond(constraint, pin, f"{what} {constraint.words} one step beyond: {pin.words}")

    def _at_limit(self, constraint: Constraint, pin: Pin, about: str) -> Iterator[Found]:
        rule = self._pinned(constraint, pin)
        scene = self._scene(self._drawing(rule, None, (0,)))
        if scene is None:
            yield Missing(self.rule.qualified, constraint.span, about, "no graph was found")
        else:
            yield self._case("limit", about, scene, Style(), constraint.span)

    def _beyond(self, constraint: Constraint, pin: Pin, about: str) -> Iterator[Found]:
        rule = self._pinned(constraint, pin)
        constraint = _same(constraint, rule)
        loose = relaxed(self.rule, constraint)
        program = replace_rule(self.stage.program, self.part, self.rule, loose)

        def drawn(pins: tuple[Expr, ...]) -> Sketch | None:
            return draw_broken(self.part, with_requires(rule, pins), constraint, 0)

        scene = self.stage.place(self.rule, drawn, lambda s: s.takes(self.rule.qualified), program)
        if scene is None:
            yield Missing(self.rule.qualified, constraint.span, about, "no graph was found that breaks this alone")
            return
        found: list[Found] = []
        for tried in (scene, *self._read_behind(scene, program)):
            case = self._case("beyond", about, tried, Style(), constraint.span, program)
            own = self.stage.scene(tried.sketch())
            if own is None or own.takes(self.rule.qualified):
                reason = "the device takes the graph as this kernel all the same"
                case = Missing(self.rule.qualified, constraint.span, about, reason)
            found.append(case)
            if isinstance(case, Case) and (not case.legal or own is None or own.kernels_at()):
                break
        cases = [f for f in found if isinstance(f, Case)]  # the last one is illegal, or the nodes run in another way
        yield cases[-1] if cases else found[0]

    def _read_behind(self, scene: Scene, program: Program) -> Iterator[Scene]:
        """The scene with a kernel behind its result: what is stored for nobody is stored for the model's caller."""
        for tensor in scene.bindings.get(str(self.rule.pattern.result), ())[:1]:
            for model in self.stage.read_by_kernel(scene.model.proto, tensor):
                found = self.stage.scene(scene.sketch(), model, program)
                if found is not None and found.takes(self.rule.qualified):
                    yield found
                    return

    def _pinned(self, constraint: Constraint, pin: Pin) -> Rule:
        """Conditions of an operator speak of its attributes, so what is pinned there stays there."""
        condition = pin.condition
        if condition is None:
            return self.rule
        if constraint.kind == "require":
            return with_requires(self.rule, (condition,))

        def pinned(node: PatternNode) -> PatternNode:
            own = node is constraint.node
            return replace(node, conditions=(*node.conditions, condition)) if own else node

        pattern = self.rule.pattern
        return replace(self.rule, pattern=replace(pattern, nodes=tuple(pinned(n) for n in pattern.nodes)))

    # ------------------------------------------------------------------------------------------ numbers

    def _sums(self) -> Iterator[Found]:
        """The largest sums that the weights allow: where an accumulator that is too narrow saturates."""
        listed = self._variants()
        given = sorted(
            listed, key=lambda v: (-sum(map(sum, v.given)), len(v.patterns))
        )  # with the bias, without activations
        for variant in [v for v in given if len(v.patterns) == len(listed[0].patterns)][:1]:
            scene = self._scene(self._drawing(self.rule, variant))
            model = extreme_constants(scene) if scene is not None else None
            if scene is None or model is None:
                return
            found = self.stage.scene(scene.sketch(), model)
            if found is None or not found.takes(self.rule.qualified):
                return
            about = "the largest sums that the weights allow, and biases beyond 16 bits"
            yield self._case("sums", about, found, Style(ends=True, plain=True))

    def _ties(self, variant: Variant) -> Iterator[Found]:
        """Scales that are powers of two, so that values in the middle between two codes occur, and rounding is decided."""
        program = powers_of_two(self.stage.program)
        drawn = self._drawing(self.rule, variant)
        scene = self.stage.place(self.rule, drawn, lambda s: s.takes(self.rule.qualified), program)
        if scene is None:
            return
        about = "scales are powers of two, and values lie in the middle between two codes"
        found = self._case("ties", about, scene, Style(plain=True), None, program)
        if isinstance(found, Case) and found.legal:
            yield found

    # ------------------------------------------------------------------------------------------ float and pass

    def floats(self) -> Iterator[Found]:
        """The plainest graph of a `float` statement: nothing of it is stored."""

        def stays(scene: Scene) -> bool:
            return not scene.kernels_at() and not any(
                reason.rule == self.rule.qualified
                for left in scene.plan.left
                if left.node not in scene.nodes
                for reason in left.reasons
            )

        for variant in self._variants():
            scene = self.stage.place(self.rule, self._drawing(self.rule, variant), stays)
            if scene is not None:
                yield self._case("float", f"{variant.words} stays in float", scene, Style())
                return
        yield self._missing("the statement", "no graph was found in which the device keeps it in float")

    def passes(self, op: str) -> Iterator[Found]:
        """Codes before and behind are the same numbers; somebody behind must want them."""
        about = f"{op} moves codes and changes none"
        result = str(self.rule.pattern.result)
        found: Found = self._missing(about, "no graph was found in which codes pass through it")
        for rule in forms_of_passing(self.rule, op):
            for variant, seed in itertools.product(variants(rule.pattern)[:2], (0, 1)):
                sketch = self._drawing(rule, variant, (seed,))(())
                scene = None if sketch is None else self._passing(sketch, sketch.bindings[result][0])
                if scene is not None:
                    found = self._case("pass", about, scene, Style())
                if isinstance(found, Case):
                    yield self._moved(found, scene.bindings[result][0] if scene is not None else "")
                    return
        yield found

    def _passing(self, sketch: Sketch, tensor: str) -> Scene | None:
        read = sketch.bindings["x"][0]
        for model in self.stage.read_by_kernel(sketch.model, tensor):
            scene = self.stage.scene(sketch, model)
            if scene is not None and scene.stores(tensor) and scene.stores(read):
                return scene
        return None

    def _moved(self, case: Case, result: str) -> Found:
        """The case, or why it is none: a code comes out that did not go in."""
        expected = case.expected
        made = next((s for s in expected.stored if result in (s.tensor, s.source.removesuffix("/float"))), None)
        if made is None:
            return self._missing(case.about, "its result is not stored")
        known = [expected.codes[s.tensor] for s in expected.stored if s is not made and _same_grid(s.grid, made.grid)]
        for k in range(len(expected.samples)):
            before = np.concatenate([c[k].reshape(-1) for c in known]) if known else np.zeros(0)
            if not np.isin(expected.codes[made.tensor][k], before).all():
                return self._missing(case.about, "a code comes out that did not go in")
        return case

    # ------------------------------------------------------------------------------------------ one case

    def _drawing(self, rule: Rule, variant: Variant | None, seeds: Sequence[int] = range(SEEDS)) -> Draw:
        def drawn(pins: tuple[Expr, ...]) -> Sketch | None:
            pinned = with_requires(rule, pins)
            for seed in seeds:
                sketch = draw(self.part, pinned, seed, variant)
                if sketch is not None:
                    return replace(sketch, model=varied(sketch.model, self.stage.seed))
            return None

        return drawn

    def _scene(self, drawn: Draw) -> Scene | None:
        return self.stage.place(self.rule, drawn, lambda s: s.takes(self.rule.qualified))

    def _case(
        self,
        kind: str,
        about: str,
        scene: Scene,
        style: Style,
        span: Span | None = None,
        program: Program | None = None,
    ) -> Found:
        span = span or self.rule.span
        try:
            compiled = compile_scene(program or self.stage.program, scene, style, self.stage.seed)
            expected = expect(compiled, self.stage.seed)
        except Unbuildable as error:
            return Missing(self.rule.qualified, span, about, str(error))
        verdicts = judge(Model("", compiled.proto, ()), self.stage.program)
        violations = [v for verdict in verdicts for v in verdict.violations]
        runs = kind != "beyond"
        if runs and violations:
            return Missing(self.rule.qualified, span, about, f"potc verify finds it illegal: {violations[0].message}")
        return Case(kind, self.rule.qualified, span, about, compiled, expected, runs, not violations)

    def _missing(self, about: str, reason: str) -> Missing:
        return Missing(self.rule.qualified, self.rule.span, about, reason)


def _same(constraint: Constraint, rule: Rule) -> Constraint:
    """The constraint as one of a changed rule."""
    return next(c for c in constraints(rule) if c.condition is constraint.condition and c.kind == constraint.kind)


def _formats_of(compiled: Compiled) -> tuple[object, ...]:
    return tuple(sorted(formats(compiled).items()))


def _same_grid(a: Grid, b: Grid) -> bool:
    numbers = np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point)
    return a.storage == b.storage and bool(numbers)
