"""What potc says when something is wrong: sources and spans, diagnostics, their renderings. Imports no other chapter."""
