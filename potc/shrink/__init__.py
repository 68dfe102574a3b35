"""``potc reduce``: a model and a rule file that fail, made small while they go on failing. The story is in ``shrink.py``."""
