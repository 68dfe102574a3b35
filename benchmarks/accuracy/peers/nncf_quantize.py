"""NNCF: ``nncf.quantize`` with all calibration samples.

Settings: ``full``: bias correction layer by layer instead of the fast one; ``mixed``: asymmetric activations; ``cpu``: for CPUs
without VNNI: halves the range of weights where sums may overflow.
"""

from __future__ import annotations

import nncf
import onnx

from samples import begin


def main() -> None:
    model, feeds, out, settings, _ = begin()
    more = {}
    if "full" in settings:
        more["fast_bias_correction"] = False
    if "mixed" in settings:
        more["preset"] = nncf.QuantizationPreset.MIXED
    if "cpu" in settings:
        more["target_device"] = nncf.TargetDevice.CPU
        more["advanced_parameters"] = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    quantized = nncf.quantize(onnx.load(model), nncf.Dataset(feeds), subset_size=len(feeds), **more)
    onnx.save(quantized, out)


if __name__ == "__main__":
    main()
