"""onnxruntime's static quantizer: ``quant_pre_process``, then QDQ with per-channel int8 weights and uint8 activations.

Settings: ``percentile`` or ``entropy`` ranges instead of minima and maxima; ``reduced``: weights of 7 bits.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from samples import Feeds, begin


def prepared(model: str, folder: str) -> str:
    """Pre-processed as its documentation asks; without symbolic shape inference where that fails."""
    target = str(Path(folder) / "prepared.onnx")
    for skip in (False, True):
        try:
            quant_pre_process(model, target, skip_symbolic_shape=skip)
            ort.InferenceSession(target, providers=["CPUExecutionProvider"])
        except Exception:
            if skip:
                return model
            continue
        return target
    return model


def main() -> None:
    model, feeds, out, settings, folder = begin()
    methods = {"percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}
    chosen = [method for word, method in methods.items() if word in settings]
    quantize_static(
        prepared(model, folder),
        out,
        Feeds(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range="reduced" in settings,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=chosen[0] if chosen else CalibrationMethod.MinMax,
    )


if __name__ == "__main__":
    main()
