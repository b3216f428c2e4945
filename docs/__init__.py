"""The documentation, and what makes the parts of it that repeat the code."""
