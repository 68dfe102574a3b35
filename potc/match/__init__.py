"""Chapter 3: rules meet a model. compile (patterns to closures), match (anchored walks), cover (which matches win)."""
