"""BentoML services: thin, one for the gateway and one for each runner."""
