"""Chapter: is a quantized model, from whatever tool, legal on a device?

``forms`` reads it as a float model with notes on what is stored how; ``formats`` compares such a note with what a rule
allows; ``judge`` finds a cover of the device's kernels that explains every quantizer, or says what is wrong where.
"""
