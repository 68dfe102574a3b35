"""POT, the Post-training Optimization Tool of OpenVINO: DefaultQuantization with all calibration samples.

Writes OUT.xml and OUT.bin, a model of OpenVINO's own. Settings: ``mixed``: asymmetric activations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from openvino.runtime import serialize
from openvino.tools.mo import convert_model
from openvino.tools.pot import (
    DataLoader,
    IEEngine,
    compress_model_weights,
    create_pipeline,
    load_model,
    save_model,
)

from samples import begin


class Samples(DataLoader):
    """One feed a sample, no annotation."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        super().__init__({})
        self._feeds = feeds

    def __len__(self) -> int:
        return len(self._feeds)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], None]:
        return self._feeds[index], None


class Engine(IEEngine):
    """Hands over samples as they are: its own way drops axes of length 1 where the model's batch is free."""

    def _fill_input(self, model: Any, image_batch: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        (feed,) = image_batch
        names = {port.get_node().get_friendly_name(): port.get_any_name() for port in model.inputs}
        return {names.get(name, name): values for name, values in feed.items()}


def main() -> None:
    model, feeds, out, settings, folder = begin()
    plain = str(Path(folder) / "float.xml")
    serialize(convert_model(model, compress_to_fp16=False), plain, plain.replace(".xml", ".bin"))
    engine = {"device": "CPU", "stat_requests_number": 1, "eval_requests_number": 1}
    chosen = {"target_device": "ANY", "stat_subset_size": len(feeds)}
    if "mixed" in settings:
        chosen["preset"] = "mixed"
    pipeline = create_pipeline(
        [{"name": "DefaultQuantization", "params": chosen}],
        Engine(engine, data_loader=Samples(feeds), metric=None),
    )
    source = {"model_name": "out", "model": plain, "weights": plain.replace(".xml", ".bin")}
    quantized = pipeline.run(load_model(source))
    compress_model_weights(quantized)
    save_model(quantized, str(Path(out).parent), Path(out).stem)


if __name__ == "__main__":
    main()
