"""Small graphs drawn from patterns: what fuzzing, witnesses, conformance kits and the validation of rewrites start from.

variants (ways to take a pattern), constraints (what can be broken), frame (a variant as a graph without shapes), search
(shapes, attributes and constants that make the constraints hold), draw (the front door), common (two rules at once).
"""
