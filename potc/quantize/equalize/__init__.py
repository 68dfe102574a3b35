"""Equalization: scales and means of channels move through the float model, so that what is quantized together has equal ranges.

Reading order: ``run`` (the pass), ``centre`` (means), ``walk`` and ``moves`` (which channels may be scaled together), ``contents``
(what they hold), ``layers`` (how that will be stored), ``scales`` (which numbers), ``noise`` (what they are worth), ``fold`` (new
constants).
"""
