"""Equalization: per-channel scales move through the float model, so that what is quantized together has equal ranges.

Reading order: ``channels`` (which channels may be scaled together), ``observe`` (what they hold), ``formats`` (how they will
be stored), ``scales`` (which numbers), ``fold`` (new constants), ``run`` (the passes in order).
"""
