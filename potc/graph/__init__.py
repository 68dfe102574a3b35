"""Chapter 2: ONNX in, a prepared graph and its snapshot, ONNX out.

In the order of work: read, opset, envelope, model, prepare, rewrite, snapshot, write.
"""
