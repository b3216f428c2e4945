"""Models, one folder each in diffusers format, and how the two miniatures are made."""
