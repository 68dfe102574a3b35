"""AMD Quark for ONNX: QDQ, per-channel int8 weights, uint8 activations.

Settings: ``percentile`` or ``layerwise`` percentile ranges of activations instead of minima and maxima; ``cle``: cross-layer
equalization; ``bias``: bias correction.
"""

from __future__ import annotations

from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config.algorithm import BiasCorrectionConfig, CLEConfig
from quark.onnx.quantization.config.config import QConfig
from quark.onnx.quantization.config.spec import CalibMethod, Int8Spec, QLayerConfig, QuantGranularity, UInt8Spec

from samples import Feeds, begin


def main() -> None:
    model, feeds, out, settings, _ = begin()
    methods = {"percentile": CalibMethod.Percentile, "layerwise": CalibMethod.LayerwisePercentile}
    method = next((m for word, m in methods.items() if word in settings), CalibMethod.MinMax)
    algorithms = {"cle": CLEConfig, "bias": BiasCorrectionConfig}
    config = QConfig(
        global_config=QLayerConfig(
            activation=UInt8Spec(calibration_method=method),
            weight=Int8Spec(calibration_method=CalibMethod.MinMax, quant_granularity=QuantGranularity.Channel),
        ),
        algo_config=[make() for word, make in algorithms.items() if word in settings],
    )
    ModelQuantizer(config).quantize_model(model, out, Feeds(feeds))


if __name__ == "__main__":
    main()
