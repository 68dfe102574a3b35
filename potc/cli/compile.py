"""``potc compile``: a model, rules and samples become a compiled model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from potc.cli.data_options import DATA, annotation_options
from potc.cli.depfile import depfile
from potc.cli.failed import failed_verification
from potc.cli.memory import bytes_of, contradiction
from potc.cli.options import color_option, device_options, known_libraries, library_option, report_format_option
from potc.cli.presets import bias_of, check_preset, effort, equalize_of
from potc.cli.range_options import range_options, range_settings
from potc.cli.target_options import check_target, target_options
from potc.cli.terminal import Session, Terminal
from potc.diagnostics.diagnostic import reject

if TYPE_CHECKING:
    from potc.choose import Choice
    from potc.compiler import Compilation, Job, Trace
    from potc.graph.whole import Content
    from potc.quantize.tuning import Tuning
    from potc.report import Report

STANDARD_OUTPUT = "-"


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where everything goes; ``model`` "-" is standard output."""

    model: str
    plan: str | None
    ranges: str | None
    report: str | None
    depfile: str | None
    depfile_target: str | None
    external_data: bool
    fronts: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The files to be written, the model last: when it is there, everything else is."""
        model = None if self.model == STANDARD_OUTPUT else self.model
        named = (self.plan, self.ranges, self.report, *self.fronts, self.depfile, model)
        return tuple(f for f in named if f is not None)

    def check(self, inputs: tuple[str, ...]) -> None:
        """Refuses before any work what can't be written, and what would destroy an input. Raises Rejected."""
        places = [os.path.realpath(f) for f in self.files]
        if len(set(places)) < len(places):
            raise click.UsageError("two outputs have the same name")
        read = {os.path.realpath(f) for f in inputs}
        for file, place in zip(self.files, places, strict=True):
            if place in read:
                raise click.UsageError(f"{file} is an input, and would be overwritten")
            if Path(file).is_dir():
                raise _unwritable(file, "it is a folder")
            if Path(file).exists() and not Path(file).is_file():
                raise _unwritable(file, "it is a device or a pipe, which a file would replace; -o - is standard output")
            if not Path(file).parent.is_dir():
                raise _unwritable(file, f"there is no folder {Path(file).parent}")
            if not os.access(Path(file).parent, os.W_OK):
                raise _unwritable(file, f"the folder {Path(file).parent} is read-only")


@click.command("compile")
@click.argument("model")
@click.option("--rules", metavar="RULES", help="Rule file, or the name of a shipped one, like cpu.")
@click.option("--target-device", metavar="NAME", help="The same as --rules NAME.rules, for shipped devices.")
@device_options
@library_option
@click.option("--data", metavar="DATA", help=DATA)
@annotation_options
@click.option("-o", "--output", metavar="OUT", help="The compiled model; - is standard output.")
@range_options
@click.option(
    "--equalize",
    type=click.Choice(["auto", "none", "align", "cross-layer", "smooth", "best"]),
    default="auto",
    show_default=True,
    help="How channels are scaled in the float model before; auto: by powers of two, where one scale serves 16-bit weights.",
)
@click.option(
    "--equalize-limits",
    type=click.Choice(["keep", "spread"]),
    default="keep",
    show_default=True,
    help="Whether channels behind an upper limit are scaled too, each with its own limit.",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "leveled", "gptq"]),
    default="leveled",
    show_default=True,
    help="How weights become codes.",
)
@click.option(
    "--bias-correction",
    type=click.Choice(["none", "fast", "sequential"]),
    default="sequential",
    show_default=True,
    help="How biases take over what rounding shifts.",
)
@click.option(
    "--float", "names", metavar="NAME", multiple=True, help="Keep nodes in float; * stands for any characters."
)
@click.option(
    "--float-op", "operators", metavar="OP", multiple=True, help="Keep an operator in float: Softmax, Conv[group=1]."
)
@click.option(
    "--float-between",
    "between",
    metavar="A B",
    nargs=2,
    multiple=True,
    help="Keep what lies between two nodes in float, both included.",
)
@click.option(
    "--io",
    metavar="KIND",
    multiple=True,
    help="u8, i8 or float: what inputs and outputs hold; NAME=KIND for one of them.",
)
@click.option("--memory", metavar="SIZE", help="Use at most so much memory, as 4GiB: layers run in groups, in turns.")
@click.option("--external-data", is_flag=True, help="Keep larger weights in a file of their own beside OUT.")
@target_options
@click.option("--plan", metavar="FILE", help="Write what was decided, as JSON.")
@click.option("--report", metavar="FILE", help="Write what was done, as JSON.")
@click.option("--depfile", metavar="FILE", help="Write a dependency file for make or ninja.")
@click.option("--depfile-target", metavar="NAME", help="The target in the dependency file; OUT if not given.")
@click.option("--print-inputs", is_flag=True, help="Compile nothing; print each file that a compile reads, one a line.")
@click.option("--null", is_flag=True, help="End the names of --print-inputs with a null character.")
@report_format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.option("-v", "--verbose", is_flag=True, help="List each kernel; show the traceback of a bug.")
@click.pass_obj
def command(session: Session, quiet: bool, verbose: bool, form: str, color: str, **words: Any) -> int:
    """Compile MODEL to integers by the rules of a device.

    \b
    potc compile model.onnx --rules cpu --data calib.npz -o model.int8.onnx
    potc compile model.onnx --rules npu.rules --set vnni=true --report report.json
    """
    session.terminal = terminal = Terminal(-1 if quiet else int(verbose), color, form == "json", form)
    _refuse_empty(words)
    check_preset(words)
    check_target(words)
    _drop_configured_rules(words)
    rules = chosen_rules(words["rules"], words["target_device"])
    output = words["output"] or default_output(words["model"], words["device"] or Path(rules).stem)
    ranges = words["save_ranges"]
    outputs = Outputs(
        output,
        words["plan"],
        ranges,
        words["report"],
        words["depfile"],
        words["depfile_target"],
        words["external_data"],
        words["fronts"],
    )
    if outputs.external_data and output == STANDARD_OUTPUT:
        raise click.UsageError("--external-data needs a file for the model: -o OUT")
    if outputs.depfile and output == STANDARD_OUTPUT and not outputs.depfile_target:
        raise click.UsageError("--depfile with -o - needs --depfile-target")
    if form != "text" and output == STANDARD_OUTPUT:
        raise click.UsageError(f"--format {form} and -o - both want standard output")
    configured = () if session.configuration is None else (session.configuration,)
    if words["null"] and not words["print_inputs"]:
        raise click.UsageError("--null is for --print-inputs")
    if words["print_inputs"]:
        return _print_inputs(job_of(rules, words), configured, "\0" if words["null"] else "\n", terminal)
    inputs = (
        words["model"],
        words["data"],
        words["ranges"],
        rules,
        *words["externs"],
        *words["libraries"],
        *configured,
    )
    outputs.check(tuple(f for f in inputs if f))
    job = job_of(rules, words)
    if wrong := contradiction(job, words["max_drop"] is not None):
        raise click.UsageError(f"--{wrong}")
    return _compile(job, words, outputs, terminal, configured)


def _print_inputs(job: Job, configured: tuple[str, ...], end: str, terminal: Terminal) -> int:
    """What --depfile would list, for build systems that want to know it first."""
    from potc.compiler import read_inputs

    names = dict.fromkeys((*read_inputs(job), *configured))
    terminal.answer_bytes("".join(f"{name}{end}" for name in names).encode(errors="surrogateescape"))
    return 0


def _drop_configured_rules(words: dict[str, Any]) -> None:
    """``--target-device`` on the command line wins over ``rules`` in a configuration, and the other way round."""
    of = click.get_current_context().get_parameter_source
    configured = click.core.ParameterSource.DEFAULT_MAP
    for name, other in (("rules", "target_device"), ("target_device", "rules")):
        if of(name) is configured and of(other) is click.core.ParameterSource.COMMANDLINE:
            words[name] = None


def _refuse_empty(words: Mapping[str, Any]) -> None:
    """An empty word is a variable of a script that was not set; as a path it would mean the current folder."""
    for name, value in words.items():
        if value == "":
            shown = "MODEL" if name == "model" else f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{shown} is empty")


def chosen_rules(rules: str | None, target_device: str | None) -> str:
    """The rule file that two options name; exactly one of them must."""
    if (rules is None) == (target_device is None):
        raise click.UsageError("give exactly one of --rules and --target-device")
    return rules if rules is not None else f"{str(target_device).lower()}.rules"


def default_output(model: str, device: str) -> str:
    """``<stem>.<device>.onnx`` in the current folder."""
    return f"{Path(model).stem}.{device}.onnx"


def job_of(rules: str, words: Mapping[str, Any]) -> Job:
    """What the options ask for. Raises Rejected, click.UsageError."""
    from potc.compiler import Job
    from potc.data.preprocessing import read_preprocessing
    from potc.data.source import Annotations
    from potc.quantize.scopes import Scopes

    return Job(
        model=words["model"],
        rules=rules,
        data=words["data"],
        device=words["device"],
        settings=dict(setting(s) for s in words["settings"]),
        tuning=_tuning(words),
        samples=words["samples"],
        seed=words["seed"],
        ranges=words["ranges"],
        externs=words["externs"],
        libraries=known_libraries(words["libraries"]),
        scopes=Scopes(words["names"], words["operators"], words["between"]),
        preprocess=read_preprocessing(words["preprocess"]),
        annotations=Annotations(words["labels"], words["images"]),
        io=dict(_io(w) for w in words["io"]),
        memory=_memory(words.get("memory")),
        **effort(words["preset"]),
    )


def _memory(size: str | None) -> int | None:
    """Raises click.BadParameter."""
    try:
        return None if size is None else bytes_of(size)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--memory") from error


def _tuning(words: Mapping[str, Any]) -> Tuning:
    from potc.quantize.tuning import BiasSettings, EqualizeSettings, RoundingSettings, Tuning

    return Tuning(
        ranges=range_settings(words),
        equalize=EqualizeSettings(equalize_of(words), words["equalize_limits"]),
        rounding=RoundingSettings(words["rounding"]),
        bias=BiasSettings(bias_of(words)),
    )


def _io(text: str) -> tuple[str, str]:
    """``KIND`` for all, or ``NAME=KIND``. Raises click.BadParameter."""
    name, _, kind = text.rpartition("=")
    if kind not in ("u8", "i8", "float"):
        raise click.BadParameter(f"{text!r} is not u8, i8, float or NAME= with one of them", param_hint="--io")
    return name, kind


def setting(text: str) -> tuple[str, str]:
    """``FEATURE=VALUE`` as two words. Raises click.BadParameter."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.BadParameter(f"{text!r} is not FEATURE=VALUE", param_hint="--set")
    return name.strip(), value.strip()


def _compile(
    job: Job, words: Mapping[str, Any], outputs: Outputs, terminal: Terminal, configured: tuple[str, ...] = ()
) -> int:
    from potc.cli.progress import watching
    from potc.cli.summary import summary
    from potc.compiler import Trace
    from potc.report import layers_of, report

    with watching(terminal) as (stage, progress):
        searched = choice = None
        if words["max_drop"] is not None:
            from potc.cli.compile_target import compile_searching

            best = None if outputs.model == STANDARD_OUTPUT else outputs.model
            compilation, searched = compile_searching(job, words, best, Trace(stage, progress), terminal)
        else:
            compilation, choice = _compiled(job, Trace(stage, progress))
        asked = compilation.verification.ok and (outputs.report is not None or terminal.verbose)
        if asked:
            stage("account")
        accounted = layers_of(compilation) if asked else None
    # How far outputs may be from the float model's is said by the target, where there is one.
    failed = [c.name for c in compilation.verification.failed]
    if failed and not (searched is not None and failed == ["alive"]):
        return failed_verification(compilation, terminal)
    inputs = tuple(dict.fromkeys((*compilation.inputs, *configured, *(searched.inputs if searched else ()))))
    outputs.check(inputs)
    told = report(compilation, accounted, choice, searched.document if searched else None)
    _write(outputs, compilation, told, inputs, terminal, searched.files(outputs.fronts) if searched else {})
    if terminal.as_json:
        terminal.answer(told.to_json().rstrip("\n"))
    elif terminal.form == "sarif":
        terminal.show(())
    else:
        terminal.say(summary(told, outputs.model, terminal.verbose))
    if searched is not None and searched.journal is not None:
        from potc.search.journal import forget_journal

        forget_journal(searched.journal)
    if searched is None:
        return 0
    (terminal.say if searched.found.met else terminal.complain)("\n".join(searched.lines(outputs.model)))
    return searched.exit_code


def _compiled(job: Job, trace: Trace) -> tuple[Compilation, Choice | None]:
    """With the job's own settings, or with the best of a few."""
    if job.preset == "auto":
        from potc.choose import choose

        return choose(job, trace)
    from potc.compiler import compile_model

    return compile_model(job, trace), None


def _write(
    outputs: Outputs,
    compilation: Compilation,
    told: Report,
    inputs: tuple[str, ...],
    terminal: Terminal,
    more: Mapping[str, bytes],
) -> None:
    """All files or none, the model last."""
    from potc.graph.external import take_apart
    from potc.graph.write import one_file, write_all
    from potc.quantize.plan_file import plan_to_json

    files: dict[str, bytes | Content] = dict(more)
    if outputs.plan:
        files[outputs.plan] = plan_to_json(compilation.plan).encode()
    if outputs.ranges:
        files[outputs.ranges] = compilation.ranges.to_json().encode()
    if outputs.report:
        files[outputs.report] = told.to_json().encode()
    if outputs.depfile:
        files[outputs.depfile] = depfile(outputs.depfile_target or outputs.model, inputs).encode()
    if outputs.external_data:
        model, place, weights = take_apart(compilation.output, outputs.model)
        files |= {place: weights, outputs.model: model}
    elif outputs.model != STANDARD_OUTPUT:
        files[outputs.model] = one_file(compilation.output)
    write_all(files)
    if outputs.model == STANDARD_OUTPUT:
        for block in one_file(compilation.output).blocks():
            terminal.answer_bytes(bytes(block))


def _unwritable(path: str, why: str) -> Exception:
    return reject("unwritable-output", f"can't write {path}: {why}", exit_code=2)
