"""Running models: onnxruntime sessions with every knob pinned."""
