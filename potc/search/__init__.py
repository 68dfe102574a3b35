"""Accuracy-aware search: the fastest plan whose loss of accuracy stays within a limit.

``search.py`` is the plot. A candidate is a ``Variant`` of the plan: kernels that are given up to float, and tensors that are
stored in a more precise type. Noise is measured source by source on calibration samples (``sources``, ``bench``), which gives
a path of moves (``moves``) along which full evaluations look for the first point that meets the target.
"""
