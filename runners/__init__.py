"""The GPU side: loading a model, the step engine, image files. Of what is shipped, only this room imports torch."""
