"""Secrets of HashiCorp Vault."""

from pipeline.vault.client import Vault
from pipeline.vault.variables import environment, fill

__all__ = ["Vault", "environment", "fill"]
