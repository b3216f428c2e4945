"""Status: where a task stands, its picture, its cancel; answered from the local view, then from the store."""
