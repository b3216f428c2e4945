"""How the service is run: on one machine, in containers, on platforms."""
