"""One cluster for all tests of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clusters import DaskCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[DaskCluster]:
    made = DaskCluster()
    yield made
    made.close()
