"""Status: where a task stands, its images and its cancel; from the local view, then from the store. No HTTP."""
