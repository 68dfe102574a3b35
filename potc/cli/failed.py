"""What is told when the compiled model is not right: whose fault it is, and what can be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potc.cli.terminal import Terminal
from potc.diagnostics.diagnostic import reject

if TYPE_CHECKING:
    from potc.compiler import Compilation

BUG = 70
MARGIN_DB = 6.0  # noise of layers adds up to more than the sum of their powers where they meet


def failed_verification(compilation: Compilation, terminal: Terminal) -> int:
    """A model that potc itself finds wrong is never written. That is a bug, unless its samples or settings explain it."""
    if [c.name for c in compilation.verification.failed] == ["alive"]:
        explain_dead_output(compilation)
    terminal.complain("internal error: the compiled model failed its verification; nothing was written")
    for check in compilation.verification.failed:
        terminal.complain(f"  {check.name}: {check.detail}")
    terminal.complain(
        "  this is a bug in potc; report it together with the rule file and the kinds of nodes in the model"
    )
    return BUG


def explain_dead_output(compilation: Compilation) -> None:
    """Raises Rejected where ranges or the device's formats leave nothing of the values, and that is not potc's choice."""
    from potc.quantize.doubts import faint_tensors, lone_samples
    from potc.quantize.tuning import RangeSettings

    settings, ranges = compilation.job.tuning.ranges, compilation.ranges
    faint = faint_tensors(compilation.plan, ranges, compilation.params)
    if faint:
        message = f"`{faint[0]}` stays so close to 0 that no scale can tell its values apart, and the outputs need them"
        help_ = "scale the model, or keep what makes the tensor in float: --float"
        raise reject("range-too-small", message, node=faint[0], help=help_)
    message = f"the compiled model answers nothing like the float model ({compilation.verification.failed[0].detail})"
    if settings != RangeSettings(settings.preset):
        raise reject("dead-output", message, help="the chosen ranges cut off too much: try --range-estimator max")
    for reason in lone_samples(ranges.by_tensor):
        raise reject("dead-output", message, help=reason)
    if compilation.samples.generated:
        help_ = (
            "noise drives some models (a recurrence that grows, say) where no real sample does: give samples, --data"
        )
        raise reject("dead-output", f"{message}; its samples were generated", help=help_)
    _explain_by_layers(compilation, message)


def _explain_by_layers(compilation: Compilation, message: str) -> None:
    """Raises Rejected where rounding, as the device's formats ask for it, is enough to explain the loss: then the noise of
    single layers, each alone, adds up to it."""
    from potc.evaluate.layers import together_db
    from potc.evaluate.verify import DEAD_DB
    from potc.report import layers_of

    found = layers_of(compilation)
    known = [] if isinstance(found, str) else [r for r in found.rows if r.output_db is not None]
    if not known or together_db(known) > DEAD_DB + MARGIN_DB:
        return
    worst = min(known, key=lambda row: row.output_db or 0.0)
    named = worst.nodes[0] if worst.nodes else worst.tensor
    formats = ", ".join(dict.fromkeys((*worst.constants.values(), *(s.format for s in worst.stored))))
    lost = f"{message}: `{named}` alone, in {formats or 'its formats'}, leaves {worst.output_db:.1f} dB of the outputs"
    help_ = "try --equalize best, keep it in float with --float, or take a device with finer formats"
    raise reject("dead-output", lost, node=named, help=help_)
