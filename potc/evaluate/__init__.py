"""Is the compiled model right, and is it good: verify, kernels, measures."""
