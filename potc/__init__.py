"""potc: a declarative graph-rewrite compiler for post-training quantization of ONNX models.

The story is in ``compiler.py``. The chapters, in the order in which a compile walks through them:
``language`` (rule text to a checked program), ``graph`` (ONNX in and out), ``match`` (rules meet the graph),
``quantize`` (plan, calibration, numbers, lowering), ``evaluate`` (verification and scores); ``data`` and ``execute`` feed
and run models, ``diagnostics`` says what is wrong, ``cli`` is the command line.

For programs there are the functions of ``__all__`` (docs/reference/python.md). They are imported when they are asked for:
``import potc`` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potc.api.authors import check as check
    from potc.api.authors import diff as diff
    from potc.api.authors import doc as doc
    from potc.api.authors import fmt as fmt
    from potc.api.authors import suite as suite
    from potc.api.authors import test as test
    from potc.api.compile import Compiled as Compiled
    from potc.api.compile import compile as compile
    from potc.api.models import bench as bench
    from potc.api.models import evaluate as evaluate
    from potc.api.models import explain as explain
    from potc.api.models import reduce as reduce
    from potc.api.models import verify as verify
    from potc.data.objects import Objects as Objects
    from potc.diagnostics.diagnostic import Rejected as Rejected
    from potc.evaluate.metrics.metric import Metric as Metric
    from potc.evaluate.scoring import Scores as Scores

__version__ = "0.1.0"

_PLACES = {
    "Compiled": "potc.api.compile",
    "Metric": "potc.evaluate.metrics.metric",
    "Objects": "potc.data.objects",
    "Rejected": "potc.diagnostics.diagnostic",
    "Scores": "potc.evaluate.scoring",
    "bench": "potc.api.models",
    "check": "potc.api.authors",
    "compile": "potc.api.compile",
    "diff": "potc.api.authors",
    "doc": "potc.api.authors",
    "evaluate": "potc.api.models",
    "explain": "potc.api.models",
    "reduce": "potc.api.models",
    "fmt": "potc.api.authors",
    "suite": "potc.api.authors",
    "test": "potc.api.authors",
    "verify": "potc.api.models",
}
__all__ = ["__version__", *_PLACES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'potc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
