"""Chapter 3: rules meet a model.

environment (what names mean), match (anchored walks), cover (which matches win), rewrite (graph edits from rule files).
"""
