"""Samples that lie elsewhere, like ``s3://bucket/calib.npz``: fetched once a run through fsspec, which is an extra."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from potc.diagnostics.diagnostic import reject
from potc.limits import limits, with_raising

PIECE = 1 << 20


def is_remote(path: str) -> bool:
    return "://" in path


def fetched(url: str) -> str:
    """A local copy, removed when the process ends. Raises Rejected: missing-package, missing-file (exit code 2), too-large."""
    return _fetched(url, limits().download_bytes)


@cache
def _fetched(url: str, most: int) -> str:
    try:
        import fsspec
    except ImportError as error:
        help_ = "install it: pip install 'potc[remote]'"
        raise reject("missing-package", f"{url} needs fsspec", help=help_, exit_code=2) from error
    target = Path(_folder(), hashlib.sha256(url.encode()).hexdigest()[:16] + "-" + Path(url).name)
    size = 0
    try:
        opened: Any = fsspec.open(url, "rb")
        with opened as source, target.open("wb") as file:
            while piece := source.read(PIECE):
                size += len(piece)
                if size > most:
                    message = f"{url} has more than {most:,} bytes"
                    raise reject("too-large", message, help=with_raising("", "download-bytes"))
                file.write(piece)
    except (OSError, ValueError, ImportError) as error:  # ImportError: the protocol needs a package of its own
        raise reject("missing-file", f"can't read {url}: {error}", exit_code=2) from error
    return str(target)


@cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="potc-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
