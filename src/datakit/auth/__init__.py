"""How a connection proves who it is, and makes the server prove the same."""

from datakit.auth.rds import IamAuth, rds_token

__all__ = ["IamAuth", "rds_token"]
