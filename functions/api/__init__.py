"""HTTP: the gateway's app, its faces, and all that is read from a request or written into an answer."""
