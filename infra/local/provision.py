"""`python -m infra.local.provision`: the same as `python -m adapters.provision`, which an image holds too."""

from adapters.provision import provision

__all__ = ["provision"]

if __name__ == "__main__":
    provision()
