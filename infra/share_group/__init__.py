"""An example of another way to read the lanes: a worker that is a member of a share group."""
