"""The cell's fixtures, for what speaks to one."""

from tests.services.cell.contributor import certificates, config, running, tls

__all__ = ["certificates", "config", "running", "tls"]
