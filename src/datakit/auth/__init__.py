"""How a connection proves who it is, and makes the server prove the same."""

from datakit.auth.elasticache import ElastiCacheIam
from datakit.auth.password import Login, PasswordAuth
from datakit.auth.rds import IamAuth, rds_token
from datakit.auth.secrets import SecretAuth
from datakit.auth.tls import Tls

__all__ = [
    "ElastiCacheIam", "IamAuth", "Login", "PasswordAuth", "SecretAuth", "Tls", "rds_token",
]  # fmt: skip
