"""The GPU side: loading, the step engine, pictures. The only room that imports torch."""
