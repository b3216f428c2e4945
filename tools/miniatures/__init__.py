"""The two small models of `model_cache/`: how they are trained and measured, and how they are made anew untrained."""
