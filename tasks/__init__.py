"""What a task is and which task runs next: values and pure decisions, without side effects.

Imports only the standard library, pydantic and sortedcontainers.
"""
