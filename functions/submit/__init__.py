"""Submit: check a request, append the task to its lane, read it back. No HTTP."""
