"""`dataclass` for the controller's modules, those included that may not know the sandbox: see `sandbox.dataclass`."""

from sandbox.dataclass import dataclass

__all__ = ["dataclass"]
