"""The consumer: takes tasks from the lanes, has runners do them, stores the pictures, says how each task ended."""
