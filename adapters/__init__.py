"""The connections to everything outside the process: the log, the object store, the runners and the clock.

The log, the store and the runner each have an in-memory twin that passes the same tests. The twin of the clock is
advanced by hand. The view is a local SQLite file and needs no twin: tests use it as it is.
"""
