"""Trains the two miniatures that ship with the project: `python -m model_cache.train sd-mini` (or `flux-mini`)."""
