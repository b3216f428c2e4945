"""Programs for work on the project, never shipped: measurements, the training of the miniatures, generated pages."""
