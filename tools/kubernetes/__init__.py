"""Builds and checks the manifests of infra/kubernetes; `python -m tools.kubernetes` does it with the real tools."""
