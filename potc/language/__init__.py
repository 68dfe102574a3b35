"""Chapter 1: rule text becomes a checked Program. Knows no model.

In the order of work: syntax, parse, mistakes, operators, expression, resolve, program, format.
"""
