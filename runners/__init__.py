"""The GPU side: loading, the step engine, pictures. Beside tools, this is the only room that imports torch."""
