"""Platforms that push records: each module turns one platform's event into records for the push consumer."""
