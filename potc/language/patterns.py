"""Patterns: chains and blocks become nodes and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from potc.language import syntax
from potc.language.nodes import MAX_NODES, NOTHING, Lowered, Nodes, vendor
from potc.language.program import Pattern, PatternNode, Result, Step
from potc.language.ways import PREVIOUS, Part, Way, ends, finished, labeled, last_ops, needs_dag, reached, reads

_T = TypeVar("_T")


@dataclass(slots=True)
class Lowering(Nodes):
    """Lowers the patterns of one device."""

    def pattern(self, match: syntax.Match) -> tuple[Pattern, Lowered]:
        """The whole pattern. Mistakes are told; the result is then only good for finding more of them."""
        low = Lowered()
        ways = self.body(match.body, low)
        for arg in (a for way in ways for placed in way.dag for a in placed.node.args):
            if isinstance(arg, Result) and arg.node == PREVIOUS:
                message = "`prev` is the step before, and there is none"
                self.scope.error("unbound-name", message, arg.span, "name the input")
        if any(len(way.dag) + len(way.tail) > MAX_NODES for way in ways):
            self.impossible(f"this pattern has more than {MAX_NODES} nodes", match.span, "match less")
        result = low.results[0] if low.results else None
        first, *others = [finished(way, result, match.span) for way in ways or NOTHING]
        return replace(first, others=tuple(others)), low

    def definition(self, pattern: syntax.PatternDefinition) -> None:
        """Checks a pattern on its own, its parameters captured as they are."""
        low = Lowered()
        given = {p.name: vendor(p.name) for p in pattern.parameters if p.kind == "ops"}
        deeper = replace(self, used=set[str](), trail=(*self.trail, pattern.name), given=given)
        deeper.body(pattern.match.body, low)
        if any(d.at == pattern.span for d in self.scope.problems):
            return  # a circle: nothing more can be said of it
        for parameter in pattern.parameters:
            if parameter.name not in (deeper.used if parameter.kind == "ops" else low.captures):
                self.scope.error(
                    "unbound-name",
                    f"pattern `{pattern.name}` does not use its parameter `{parameter.name}`",
                    parameter.span,
                    "use it, or remove it",
                )
        for require in pattern.requires:
            deeper.names(low).checked(require.condition)

    def body(self, body: syntax.Chain | syntax.Block, low: Lowered) -> tuple[Way, ...]:
        """The ways to match the body of a pattern. Of a pattern by name, all names are bound, that of the result too."""
        if isinstance(body, syntax.Block):
            return self._block(body, low)
        ways = self._chain(body, low, True)
        name = body.steps[-1].name
        low.results = () if name is None else (name,)
        if name is not None and self.trail:
            ways = tuple(self.called(way, name, body.span) for way in ways if way.dag)
        return ways

    # ------------------------------------------------------------------------------------------ lines

    def _block(self, block: syntax.Block, low: Lowered) -> tuple[Way, ...]:
        later = {name: bind for bind in block.binds for name in bind.names}
        ways: tuple[Way, ...] = NOTHING
        binds: dict[int, syntax.Bind] = {}  # by number of the node
        for bind in block.binds:
            for name in bind.names:
                later.pop(name, None)
            for k, name in enumerate(bind.names):
                if name in low.lines or name in low.captures or name in bind.names[:k]:
                    message = f"`{name}` is bound twice"
                    self.scope.error("duplicate-name", message, bind.span, "give each line its own name")
            node = replace(bind.node, args=tuple(self._line_arg(a, later) for a in bind.node.args or ()))
            number = self.number()
            binds[number] = bind
            made = self._placed(node, low, number, bind.names, bind is block.binds[-1])
            if not made:
                binds.clear()  # a line was told to be wrong: what it would have reached is not known
            ways = self.joined(ways, made or NOTHING, bind.span)
            low.lines.update((name, (number, output)) for output, name in enumerate(bind.names))
        low.results = block.binds[-1].names
        for number, bind in binds.items():
            if not all(number in reached(way) for way in ways):
                message = f"`{bind.names[0]}` does not lead to the last line"
                self.scope.error("unreached-line", message, bind.span, "use it, or remove the line")
        return ways

    def _line_arg(self, arg: syntax.PatternArg, later: Mapping[str, syntax.Bind]) -> syntax.PatternArg:
        """Tells what a line can't be given; such an argument then stands for anything."""
        nothing = syntax.ArgCapture("_", "any", False, False, arg.span)
        if isinstance(arg, syntax.ArgCapture) and arg.name in later:
            message = f"`{arg.name}` is used before its line"
            self.scope.error("unbound-name", message, arg.span, "move its line up", later[arg.name].span, "its line")
            return nothing
        if isinstance(arg, syntax.ArgPrevious):
            message = "`prev` means something in a chain of `->` only"
            self.scope.error("unbound-name", message, arg.span, "write the name of the line")
            return nothing
        if isinstance(arg, syntax.ArgNested):
            args = tuple(self._line_arg(a, later) for a in arg.node.args or ())
            return replace(arg, node=replace(arg.node, args=args))
        return arg

    def _placed(
        self, node: syntax.NodePattern, low: Lowered, number: int, names: tuple[str, ...], is_last: bool
    ) -> tuple[Way, ...]:
        """The ways to make one node of a DAG, or all nodes of a pattern; none after a mistake. The node that gives the
        result gets the number and the names. ``is_last``: a chain may follow."""
        node = self.with_given(node)
        definition = self.definition_of(node)
        if definition is None:
            ways = self.operator(node, low, number, names, False)
        else:
            ways = ()
            for way in self.inlined(node, definition, low, False, names):
                is_chain = way.tail and is_last and len(names) < 2 and not needs_dag(way)
                flat = (way,) if is_chain else self.flat(way, node)
                ways = (*ways, *(w if w.tail else labeled(w, number, names) for w in flat))
        low.call(names, ends(ways))
        return ways

    # ------------------------------------------------------------------------------------------ chains

    def _chain(self, chain: syntax.Chain, low: Lowered, whole: bool = False) -> tuple[Way, ...]:
        """``whole``: the last step gives the result of the match, which gets its name anyway."""
        first, *rest = chain.steps
        ways = self._first(first, low)
        tail = [self._step(step, low, whole and step is rest[-1]) for step in rest]
        ways = tuple(Way(way.dag, (*way.tail, *(step for step in tail if step is not None))) for way in ways)
        if chain.steps[-1].name is not None:
            # It may be made by an earlier node where the last steps are optional.
            low.call((chain.steps[-1].name,), ends(ways))
        return ways

    def _first(self, step: syntax.ChainStep, low: Lowered) -> tuple[Way, ...]:
        """The ways to begin a chain: one for each alternative of its first step."""
        if step.negative or step.low == 0:
            what = "`not`" if step.negative else "a step that may be missing"
            help_ = "begin with an operator that is always there"
            self.impossible(f"a pattern can't begin with {what}", step.span, help_)
            return ()
        names = () if step.name is None else (step.name,)
        low.steps |= frozenset(names)
        if isinstance(step.alternatives, syntax.NodePattern):
            ways = self._placed(step.alternatives, low, self.number(), names, True)
        else:
            chains = tuple(_called(chain, step.name) for chain in step.alternatives)
            ways = tuple(way for found in self._each(chains, low, self._chain) for way in found)
            if step.name is not None:
                ways = tuple(self.called(way, step.name, step.span) for way in ways)
                low.call(names, ends(ways))
        if step.high == 1:
            return ways
        low.again = True
        more = self._step(replace(self._once_more(step), edge="->", low=step.low - 1, high=step.high - 1), low, False)
        low.again = False
        return ways if more is None else tuple(Way(way.dag, (*way.tail, more)) for way in ways)

    def _once_more(self, step: syntax.ChainStep) -> syntax.ChainStep:
        """A first step as the next one behind itself: ``prev`` comes in the place of its first computed input."""
        body = step.alternatives
        if not isinstance(body, syntax.NodePattern):
            chains = (replace(c, steps=(self._once_more(c.steps[0]), *c.steps[1:])) for c in body)
            return replace(step, alternatives=tuple(chains))
        for k, arg in enumerate(body.args or ()):
            if isinstance(arg, syntax.ArgCapture) and arg.kind != "const":
                args = (*(body.args or ())[:k], syntax.ArgPrevious(arg.span), *(body.args or ())[k + 1 :])
                return replace(step, alternatives=replace(body, args=args))
        if body.args:
            help_ = "capture an input of the first step, or write the steps out"
            self.impossible("nothing in this step can take the result of the one before", body.span, help_)
        return step

    def _step(self, step: syntax.ChainStep, low: Lowered, last: bool) -> Step | None:
        """A later step; None after a mistake. ``last``: its name is that of the whole match."""
        name = None if last else step.name
        if step.negative and step.name is not None:
            message = f"`{step.name}` names a step that must not be there"
            self.scope.error("unbound-name", message, step.span, "remove `as`")
        if name is not None and not low.again and (name in low.steps or name in low.captures):
            self.scope.error("duplicate-name", f"`{name}` is bound twice", step.span, "give each step its own name")
        if isinstance(step.alternatives, syntax.NodePattern):
            sequences = self._behind(step.alternatives, low)
        else:
            sequences = [s for s in self._each(step.alternatives, low, self._sequence) if s]
        if name is not None:
            low.steps |= {name}
        if not sequences:
            return None
        single = [s[0] for s in sequences if len(s) == 1 and isinstance(s[0], PatternNode)]
        if name is not None and len(single) == len(sequences) and not any(node.name for node in single):
            sequences = [(replace(node, name=name),) for node in single]
            made = Step(tuple(sequences), step.edge != "~>", step.low, step.high, step.negative, step.span)
        else:
            made = Step(tuple(sequences), step.edge != "~>", step.low, step.high, step.negative, step.span, name)
        if name is not None:
            low.call((name,), frozenset(last_ops((made,))[0]))
        return made

    def _each(
        self, chains: Iterable[syntax.Chain], low: Lowered, lower: Callable[[syntax.Chain, Lowered], _T]
    ) -> list[_T]:
        """Alternatives: a name may be given in each of them."""
        before, after = low.steps, low.steps
        found: list[_T] = []
        for chain in chains:
            low.steps = before
            found.append(lower(chain, low))
            after |= low.steps
        low.steps = after
        return found

    def _sequence(self, chain: syntax.Chain, low: Lowered) -> tuple[Part, ...]:
        """A chain in parentheses, as a step or an alternative of one."""
        found: list[Part] = []
        for step in chain.steps:
            inner = self._step(step if step.edge else replace(step, edge="->"), low, False)
            if inner is None:
                continue
            plain = inner.exclusive and (inner.low, inner.high, inner.negative, inner.name) == (1, 1, False, None)
            if plain and len(inner.alternatives) == 1:
                found.extend(inner.alternatives[0])
            else:
                found.append(inner)
        return tuple(found)

    def _behind(self, node: syntax.NodePattern, low: Lowered) -> list[tuple[Part, ...]]:
        """One operator or a pattern by name as a later step of a chain: its alternatives."""
        node = self.with_given(node)
        definition = self.definition_of(node)
        if definition is None:
            ways = self.operator(node, low, self.number(), (), True)
        else:
            inlined = self.inlined(node, definition, low, True, ())
            ways = tuple(w for way in inlined for w in (self.flat(way, node) if needs_dag(way) else (way,)))
        found: list[tuple[Part, ...]] = []
        for way in ways:
            head: Part = finished(Way(way.dag), None, node.span)
            if len(way.dag) == 1:
                head = way.dag[0].node
                head = head if head.args else replace(head, args=(Result(PREVIOUS, head.span),))
            elif not any(reads(placed.node, PREVIOUS) for placed in way.dag):
                help_ = "write `prev` in the place of an input"
                self.impossible("nothing in this step takes the result of the step before", node.span, help_)
            found.append((head, *way.tail))
        return found


def _called(chain: syntax.Chain, name: str | None) -> syntax.Chain:
    """An alternative with the name that stands behind the parentheses, where it is one step without a name of its own."""
    step = chain.steps[0]
    alone = len(chain.steps) == 1 and step.name is None
    return replace(chain, steps=(replace(step, name=name),)) if alone else chain
