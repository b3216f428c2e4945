"""Everything outside the process: the log, the object store, the runners and the clock. Each has an in-memory twin that
passes the same tests. The view is a local SQLite file and needs no twin: tests use it as it is."""
