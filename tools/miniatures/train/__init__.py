"""Trains the two miniatures that ship with the project: `python -m tools.miniatures.train sd-mini` (or `flux-mini`)."""
