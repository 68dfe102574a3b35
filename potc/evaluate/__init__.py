"""Is the result as good as the float model? Checks, error by layer, and scores on annotated samples.

``potc.evaluate(...)`` is a function of the Python API and ``potc.evaluate`` a chapter: once a module of it was imported, the name
means the chapter, so the chapter can be called, and does what the function does.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Chapter(ModuleType):
    """Python documents such classes: "Customizing module attribute access", the data model."""

    def __call__(self, *arguments: Any, **words: Any) -> Any:
        return import_module("potc.api.models").evaluate(*arguments, **words)


sys.modules[__name__].__class__ = _Chapter
