"""The HTTP face of submit and status."""
