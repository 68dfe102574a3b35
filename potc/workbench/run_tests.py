"""Runs the `test` blocks of one rule file: each graph is matched and solved for each device of the test, then compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from potc.compiler import prepare
from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Rejected
from potc.diagnostics.source import Source
from potc.graph.names import all_nodes
from potc.graph.snapshot import outer_reads
from potc.language.devices import inherit
from potc.language.files import Library, read_library
from potc.language.formats import Formats
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.language.scope import Scope, build_scope
from potc.language.syntax import Device, DeviceAlgebra, Expect, Test
from potc.quantize.parts import snapshots_of, solve_parts, without_ends
from potc.workbench.expectations import Failure, judge
from potc.workbench.found import Found, Types
from potc.workbench.graph_text import model_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test on one device. ``failures``: expectations that don't hold; ``errors``: why it could not be run."""

    test: Test
    device: str
    failures: tuple[Failure, ...]
    errors: tuple[Diagnostic, ...]
    diagnostics: tuple[Diagnostic, ...]
    found: Found | None = field(compare=False, repr=False, default=None)

    @property
    def status(self) -> str:
        """What became of it: "passed", "failed", or "error" where the test itself is at fault."""
        return "error" if self.errors else "failed" if self.failures else "passed"


@dataclass(frozen=True, slots=True)
class FileRun:
    """What the tests of one file found, in the order of the file. ``programs``: every concrete device of the file, those
    that can be loaded; ``count``: how many tests the file has, selected or not; ``place``: where the file is."""

    path: str
    place: str
    library: Library
    outcomes: tuple[Outcome, ...]
    programs: Mapping[str, Program]
    count: int

    def outcomes_of(self, status: str) -> tuple[Outcome, ...]:
        return tuple(o for o in self.outcomes if o.status == status)


def run_tests(
    path_or_name: str, selected: Callable[[str], bool] = lambda title: True, externs: Sequence[str] = ()
) -> FileRun:
    """Runs the tests that the file itself holds (not those that it uses) and whose title is selected. ``externs``: Python
    files that may run, for `extern pred`.

    Raises Rejected where the file can't be read. What is wrong with one device is told by the tests that name it.
    """
    library = read_library(path_or_name)
    bench = _Bench(path_or_name, library, externs)
    tests = [item for item in library.main.items if isinstance(item, Test)]
    outcomes = [o for test in tests if selected(test.title) for o in bench.outcomes(test)]
    for device in bench.devices:
        bench.load(device)
    place = library.sources[-1]
    return FileRun(library.main.source.path, place, library, tuple(outcomes), bench.programs, len(tests))


class _Bench:
    """The devices of one file, each loaded once."""

    def __init__(self, path: str, library: Library, externs: Sequence[str]) -> None:
        self._path = path
        self._externs = externs
        self._library = library
        self._sources: Mapping[str, Source] = {f.source.path: f.source for f in library.files}
        self._loaded: dict[str, Program | Rejected] = {}
        own = [i for i in library.main.items if isinstance(i, Device | DeviceAlgebra)]
        self.devices = tuple(d.name for d in own if isinstance(d, DeviceAlgebra) or not d.abstract)

    @property
    def programs(self) -> Mapping[str, Program]:
        return {name: p for name, p in self._loaded.items() if isinstance(p, Program) and name in self.devices}

    def load(self, device: str) -> Program | Rejected:
        if device not in self._loaded:
            try:
                self._loaded[device] = load_rules(self._path, device=device, externs=self._externs)
            except Rejected as rejected:
                if rejected.exit_code != 1:  # a file that is not there is no fault of the rules
                    raise
                self._loaded[device] = rejected
        return self._loaded[device]

    def outcomes(self, test: Test) -> Iterator[Outcome]:
        """One per device that the test names, else one per device of the file."""
        devices = test.devices or self.devices
        if not devices:
            help_ = 'name one, `test "..." for DEVICE { ... }`, and `use` its file'
            problem = Diagnostic("invalid-test", f'"{test.title}" is for no device', at=test.span, help=help_)
            yield Outcome(test, "", (), (problem,), (problem,))
        for device in dict.fromkeys(devices):
            try:
                yield self._run(test, device)
            except Rejected as rejected:
                if rejected.exit_code != 1:
                    raise
                yield Outcome(test, device, (), rejected.diagnostics, rejected.diagnostics)

    def _run(self, test: Test, device: str) -> Outcome:
        """Raises Rejected where the test is at fault, or the rules are and the test does not expect it."""
        errors = [e for e in test.expects if e.what == "error"]
        if errors and len(errors) < len(test.expects):
            help_ = "what is rejected has no kernels and formats; make two tests"
            message = "`expect error` stands beside other expectations"
            raise Rejected([Diagnostic("invalid-test", message, at=errors[0].span, label=_label(test), help=help_)])
        program = self.load(device)
        try:
            if isinstance(program, Rejected):
                raise program
            model = model_of(test, program.opset)
            written = list(all_nodes(model.proto.graph))
            named = {o: n.name for n in written for o in n.output if o}
            named |= {i: "" for n in written for i in (*n.input, *outer_reads(n)) if i and i not in named}
            prepared, changes = prepare(model, program)
            parts = solve_parts(program, prepared, snapshots_of(prepared))
        except Rejected as rejected:
            if not errors or any(d.code == "invalid-test" for d in rejected.diagnostics):
                raise
            return self._outcome(test, device, _other_errors(errors, rejected), None)
        types, inside = self._types(test, program), without_ends(program)
        bodies = tuple(Found(inside, p.snapshot, p.plan, changes, named, types) for p in parts[1:])
        found = Found(program, parts[0].snapshot, parts[0].plan, changes, named, types, bodies)
        return self._outcome(test, device, judge(test, found), found)

    def _outcome(self, test: Test, device: str, failures: tuple[Failure, ...], found: Found | None) -> Outcome:
        told = tuple(f.diagnostic(test.title, device, self._sources) for f in failures)
        errors = tuple(d for f, d in zip(failures, told, strict=True) if f.instead is None)
        return Outcome(test, device, failures, errors, told, found)

    def _types(self, test: Test, program: Program) -> Mapping[Expect, tuple[Types, bool]]:
        """The formats of `expect TENSOR: ...`; the device's own `qtype` names may be used. Raises Rejected."""
        scope = build_scope(self._library, Diagnostics())
        definition = scope.devices.get(program.device)
        named = inherit(scope, definition).qtypes if isinstance(definition, Device) else {}
        formats = Formats(Scope(Diagnostics(), signatures=scope.signatures), named, program.features)
        found: dict[Expect, tuple[Types, bool]] = {}
        for expect in test.expects:
            if expect.types is None:
                continue
            listed = formats.alternatives(expect.types)
            if listed.none and listed.types:
                message = "a tensor is stored or it is not: `none` stands alone"
                raise Rejected(
                    [
                        Diagnostic(
                            "invalid-test",
                            message,
                            at=expect.span,
                            label=_label(test),
                            help="list the formats, or `none`",
                        )
                    ]
                )
            found[expect] = (listed.types, listed.none)
        formats.scope.problems.stop()
        return found


def _label(test: Test) -> str:
    return f'in "{test.title}"'


def _other_errors(errors: list[Expect], rejected: Rejected) -> tuple[Failure, ...]:
    """Expected diagnostics that were not told, with those that were."""
    told = {d.code: d for d in rejected.diagnostics}
    failures: list[Failure] = []
    for expect in errors:
        if expect.rule not in told:
            first = next(iter(told.values()))
            instead = tuple(f"expect error {code}" for code in told if code not in {e.rule for e in errors})
            failures.append(Failure(expect, expect.rule, f"{first.code}: {first.message}", (), instead))
    return tuple(failures)
