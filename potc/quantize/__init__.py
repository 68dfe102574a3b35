"""Chapter 4: what becomes integer, with which numbers.

In the order of work: plan, solve, observe, calibrate, params, narrow, lower.
"""
