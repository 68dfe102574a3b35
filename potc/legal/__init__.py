"""Chapter: is a quantized model, from whatever tool, legal on a device?

``forms`` reads it as a float model with notes on what is stored how (``stored``) and where (``sites``); ``demands`` compares
one match of one rule with them; ``disjoint`` picks kernels that share no node; ``judge`` says what none of them explains.
"""
