"""A model that a server in another environment runs, behind the few calls that an ``eval.py`` and ``scoring`` make of a session."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np


class Elsewhere:
    """Runs ``server MODEL THREADS all|off`` (peers/openvino_server.py has the messages) until it is closed. ``about``: what the
    server says of the model."""

    def __init__(self, server: list[str], model: str, threads: int, optimize: str) -> None:
        words = [*server, str(Path(model).absolute()), str(threads), optimize]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.about: dict[str, Any] = json.loads(str(self._receive()["about"]))

    def run(self, outputs: list[str] | None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs by any of their names; all of them in their order without ``outputs``."""
        packed = io.BytesIO()
        np.savez(packed, **feed)
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(len(packed.getvalue()).to_bytes(8, "little") + packed.getvalue())
        stdin.flush()
        found = self._receive()
        places = {name: str(place) for place, names in enumerate(self.about["outputs"]) for name in names}
        wanted = [str(place) for place in range(len(found))] if outputs is None else [places[name] for name in outputs]
        return [found[place] for place in wanted]

    def _receive(self) -> dict[str, np.ndarray]:
        stdout = self._process.stdout
        assert stdout is not None
        length = int.from_bytes(stdout.read(8), "little")
        if not length:
            raise RuntimeError(f"the server ended with {self._process.wait()}")
        with np.load(io.BytesIO(stdout.read(length))) as file:
            return {name: file[name] for name in file.files}

    def close(self) -> None:
        self._process.communicate()
