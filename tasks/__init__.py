"""What a task is and whose turn it is: values and decisions, no effects.

Imports only the standard library, pydantic and sortedcontainers.
"""
