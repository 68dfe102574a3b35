"""``python -m potc``."""

from potc.cli.main import run

run()
