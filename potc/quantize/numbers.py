"""The numbers of one quantizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from potc.language.program import QType


@dataclass(frozen=True, slots=True)
class QuantParams:
    """``scale``: float32, a scalar array or [C] along ``axis``. ``zero_point``: same shape, dtype of the storage
    (int8 and uint8 for 4 and 2 bits). ``block``: how many elements along ``axis`` have one scale; the scale then has the
    shape that ``blocks`` describes.
    """

    qtype: QType
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None
    block: int | None = None
