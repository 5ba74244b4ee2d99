"""How a connection proves who it is, and makes the server prove the same."""

from datakit._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datakit.auth.elasticache import ElastiCacheIam
    from datakit.auth.password import Login, PasswordAuth
    from datakit.auth.rds import IamAuth, rds_token
    from datakit.auth.secrets import SecretAuth
    from datakit.auth.tls import Tls

__all__ = [
    "ElastiCacheIam", "IamAuth", "Login", "PasswordAuth", "SecretAuth", "Tls", "rds_token",
]  # fmt: skip

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ElastiCacheIam": "datakit.auth.elasticache",
        "Login": "datakit.auth.password",
        "PasswordAuth": "datakit.auth.password",
        "IamAuth": "datakit.auth.rds",
        "rds_token": "datakit.auth.rds",
        "SecretAuth": "datakit.auth.secrets",
        "Tls": "datakit.auth.tls",
    },
)
