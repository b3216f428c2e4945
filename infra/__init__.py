"""How the service is run. `local/` runs all of it on one machine; another platform gets a folder of its own."""
