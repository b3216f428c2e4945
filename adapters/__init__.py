"""One file per outside thing, each with an in-memory twin that passes the same tests."""
