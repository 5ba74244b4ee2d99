"""What differs between the drivers: how they are told an address, TLS and a deadline."""

from datakit.db.drivers.driver import Driver, driver_for

__all__ = ["Driver", "driver_for"]
