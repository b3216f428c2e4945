"""How the service is run. `local/` runs all of it on one machine; other ways get a folder beside it."""
