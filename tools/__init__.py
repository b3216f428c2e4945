"""Programs for those who work on the project: measurements, the miniatures' recipe, generated pages. Never shipped."""
