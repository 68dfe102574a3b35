"""potc: a declarative graph-rewrite compiler for post-training quantization of ONNX models.

The story is in ``compiler.py``. The chapters, in the order in which a compile walks through them:
``language`` (rule text to a checked program), ``graph`` (ONNX in and out), ``match`` (rules meet the graph),
``quantize`` (plan, calibration, numbers, lowering), ``evaluate`` (verification); ``data`` and ``execute`` feed and run
models, ``diagnostics`` says what is wrong, ``cli`` is the command line.
"""

__version__ = "0.1.0"
