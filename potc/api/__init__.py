"""The commands as functions: the same words, keywords only, values that don't change as results.

Whatever is at fault with rules, models or samples raises ``potc.Rejected``, whose ``diagnostics`` say what and where; words that
contradict each other raise ValueError. Nothing is printed, and nothing is written unless a result is told to ``save``.
"""
