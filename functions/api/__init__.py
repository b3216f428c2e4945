"""HTTP: the gateway's app, its faces, and everything that reads a request or writes an answer."""
