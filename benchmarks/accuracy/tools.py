"""Who is compared: a tool is a command that makes a quantized model of a float model and samples.

potc runs in this interpreter, and so does every model of onnxruntime; a model of another runtime is run by a server in the
environment of its tool (``serve``). Every peer runs in an environment of its own, named by ``--peer-python NAME=PYTHON``, else
made below ``--environments`` from the package index at first use.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
REQUIREMENTS: dict[str, tuple[tuple[str, ...], ...]] = {  # each group is one call of pip, in order
    "onnxruntime": (("onnxruntime", "onnx", "sympy"),),
    "nncf": (("nncf", "onnx", "onnxruntime"),),
    "quark": (("torch==2.13.0", "numpy"), ("amd-quark", "onnxruntime")),
    "neural-compressor": (
        (
            "onnx-neural-compressor",
            "onnxruntime",
            "prettytable",
            "psutil",
            "py-cpuinfo",
            "pydantic",
            "transformers",
            "scipy",
        ),
    ),
    "pot": (
        ("openvino-dev[onnx]==2023.3.0", "scipy==1.10.1"),
    ),  # the last release with POT, which needs the older scipy
}
DISTRIBUTIONS = {
    "nncf": "nncf",
    "quark": "amd-quark",
    "neural-compressor": "onnx-neural-compressor",
    "pot": "openvino-dev",
}
SCRIPTS = {
    "onnxruntime": "onnxruntime_static.py",
    "nncf": "nncf_quantize.py",
    "quark": "quark_quantize.py",
    "neural-compressor": "neural_compressor.py",
    "pot": "pot_quantize.py",
}
SERVERS = {"pot": "openvino_server.py"}


@dataclass(frozen=True, slots=True)
class Tool:
    """``name`` in tables; ``peer``: whose environment, "potc" for this one; ``settings``: words behind its command."""

    name: str
    peer: str
    settings: tuple[str, ...] = ()
    what: str = ""


TOOLS = (
    Tool("potc", "potc", (), "defaults"),
    Tool("potc auto", "potc", ("--preset", "auto"), "the best of a few settings on held-back samples"),
    Tool("potc fast", "potc", ("--preset", "fast"), "minima and maxima alone"),
    Tool("onnxruntime", "onnxruntime", (), "min-max, per-channel s8 weights, u8 activations, after quant_pre_process"),
    Tool("onnxruntime reduced", "onnxruntime", ("reduced",), "reduce_range=True, as documented for CPUs without VNNI"),
    Tool("onnxruntime percentile", "onnxruntime", ("percentile",), "calibrate_method=Percentile"),
    Tool("onnxruntime percentile reduced", "onnxruntime", ("percentile", "reduced"), "both"),
    Tool("onnxruntime entropy", "onnxruntime", ("entropy",), "calibrate_method=Entropy"),
    Tool("NNCF", "nncf", (), "nncf.quantize with its defaults"),
    Tool("NNCF accurate", "nncf", ("mixed", "full"), "preset MIXED, fast_bias_correction=False"),
    Tool("NNCF cpu", "nncf", ("mixed", "cpu"), "target CPU, overflow fix on, preset MIXED"),
    Tool("Quark", "quark", (), "min-max, per-channel s8 weights, u8 activations"),
    Tool("Quark percentile", "quark", ("percentile",), "its default ranges for activations"),
    Tool("Quark bias", "quark", ("bias",), "bias correction"),
    Tool("Quark cle bias", "quark", ("cle", "bias"), "cross-layer equalization and bias correction"),
    Tool("Neural Compressor", "neural-compressor", (), "static, QDQ, per-channel s8 weights, u8 activations"),
    Tool("Neural Compressor reduced", "neural-compressor", ("reduced",), "reduce_range=True"),
    Tool("POT", "pot", (), "DefaultQuantization with its defaults, on OpenVINO's kernels"),
    Tool("POT mixed", "pot", ("mixed",), "preset mixed, on OpenVINO's kernels"),
)
BASELINE = "onnxruntime"  # the tool that costs are told relative to


class Environments:
    """Interpreters of the peers; ``reasons`` tells why one is missing."""

    def __init__(self, given: dict[str, str], folder: Path, install: bool) -> None:
        self._pythons = {"potc": sys.executable, **given}
        self._folder = folder
        self._install = install
        self.reasons: dict[str, str] = {}

    def python(self, peer: str) -> str | None:
        """The interpreter of a peer; None with a reason if there is none."""
        if peer in self._pythons:
            return self._pythons[peer]
        if peer in self.reasons:
            return None
        python = self._folder / peer / "bin" / "python"
        if not python.exists():
            if not self._install:
                self.reasons[peer] = "not installed, and --no-install"
                return None
            failed = self._make(peer, python)
            if failed:
                self.reasons[peer] = f"could not be installed: {failed}"
                return None
        self._pythons[peer] = str(python)
        return str(python)

    def _make(self, peer: str, python: Path) -> str:
        commands = [[sys.executable, "-m", "venv", str(python.parent.parent)]]
        commands += [[str(python), "-m", "pip", "install", "-q", *group] for group in REQUIREMENTS[peer]]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                python.unlink(missing_ok=True)
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                return lines[-1] if lines else f"exit {done.returncode}"
        return ""

    def versions(self, peer: str) -> dict[str, str]:
        """Versions of what a peer's results depend on."""
        python = self.python(peer)
        if python is None:
            return {}
        names = [*([DISTRIBUTIONS[peer]] if peer in DISTRIBUTIONS else []), "onnxruntime", "onnx", "numpy"]
        code = "from importlib.metadata import distributions\nfound = {d.name: d.version for d in distributions()}\n"
        code += f"for n in {names!r}:\n if n in found: print(n, found[n])"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        return dict(line.split() for line in done.stdout.splitlines())


def command(tool: Tool, python: str, model: str, samples: str, out: str, rules: str) -> list[str]:
    """The whole quantization, as a process."""
    if tool.peer == "potc":
        words = [python, "-m", "potc", "compile", model, "--rules", rules, "--data", samples, "-o", out, "-q"]
        return [*words, *tool.settings]
    return [python, str(PEERS / SCRIPTS[tool.peer]), model, samples, out, *tool.settings]


def suffix(tool: Tool) -> str:
    """Of the model that it writes."""
    return ".xml" if tool.peer in SERVERS else ".onnx"


def serve(tool: Tool, environments: Environments) -> list[str]:
    """The command that runs its models, before model, threads and optimizations; none where this interpreter does."""
    python = environments.python(tool.peer) if tool.peer in SERVERS else None
    return [python, str(PEERS / SERVERS[tool.peer])] if python else []
