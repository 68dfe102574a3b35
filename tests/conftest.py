"""Settings for all tests: a busy machine is no failure, and CI tries the same examples every time."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile(
    "thorough", deadline=None, max_examples=1000
)  # POTC_THOROUGH=1: laws that no change should break
settings.load_profile("thorough" if os.environ.get("POTC_THOROUGH") else "ci" if os.environ.get("CI") else "developer")
