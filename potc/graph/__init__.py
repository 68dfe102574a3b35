"""Chapter 2: ONNX in, a prepared graph and its snapshot, ONNX out.

In the order of work: model, read, opset, prepare, snapshot, envelope, write.
"""
