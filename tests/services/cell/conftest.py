"""Fixtures of the cell's tests."""

from tests.services.cell.contributor import certificates, config, running, tls

__all__ = ["certificates", "config", "running", "tls"]
