"""The two small models of `model_cache/`: their training and measurement, and untrained copies for tests."""
