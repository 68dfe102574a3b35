"""Intel Neural Compressor for ONNX: static quantization, QDQ, per-channel int8 weights, uint8 activations.

Settings: ``reduced``: 7 bits; ``smooth``: SmoothQuant before.
"""

from __future__ import annotations

import onnx
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

from samples import Feeds, begin


class Reader(Feeds, data_reader.CalibrationDataReader):
    """Both names for the same thing."""


def main() -> None:
    model, feeds, out, settings, _ = begin()
    extra = {"ActivationSymmetric": False}
    if "smooth" in settings:
        extra["SmoothQuant"] = True
    chosen = config.StaticQuantConfig(
        calibration_data_reader=Reader(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range="reduced" in settings,
        calibration_sampling_size=len(feeds),
        extra_options=extra,
        execution_provider="CPUExecutionProvider",
    )
    quantize(model, out, chosen)
    onnx.save(onnx.load(out), out)  # it writes the weights beside the model; one file is what the others write


if __name__ == "__main__":
    main()
