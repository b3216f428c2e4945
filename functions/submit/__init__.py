"""Submit: check a request, append the task, say where it stands."""
