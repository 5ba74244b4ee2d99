"""AWS Signature Version 4 of a GET request in its query string, on the standard library alone.

Importing botocore for it costs a cold process more than connecting does.
"""

import hmac
from collections.abc import Mapping
from hashlib import sha256
from time import gmtime, strftime
from typing import Final
from urllib.parse import quote

from datakit.auth.credentials import Credentials

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_EMPTY_BODY: Final = sha256(b"").hexdigest()


def presign(
    *,
    host: str,
    port: int | None,
    params: Mapping[str, str],
    service: str,
    region: str,
    credentials: Credentials,
    at: float,
    expires: int,
) -> str:
    """Return "host:port/?query", signed at the epoch second `at` for `expires` seconds.

    Source: IAM User Guide, "Authenticating requests: query parameters (SigV4)".
    """
    moment = strftime("%Y%m%dT%H%M%SZ", gmtime(at))
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    signing = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": "host",
    }
    if credentials.session_token is not None:
        signing["X-Amz-Security-Token"] = credentials.session_token
    pairs = [f"{_encoded(name)}={_encoded(value)}" for name, value in {**params, **signing}.items()]
    where = host if port is None else f"{host}:{port}"
    # As HTTP sends it: in lower case, without the scheme's own port.
    signed_host = (host if port == 443 else where).lower()
    request = f"GET\n/\n{'&'.join(sorted(pairs))}\nhost:{signed_host}\n\nhost\n{_EMPTY_BODY}"
    digest = sha256(request.encode()).hexdigest()
    key = _signing_key(credentials.secret_key, moment[:8], region, service)
    signature = _hmac(key, f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}").hex()
    return f"{where}/?{'&'.join(pairs)}&X-Amz-Signature={signature}"


def _signing_key(secret_key: str, *parts: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (*parts, "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _encoded(text: str) -> str:
    return quote(text, safe="-._~")
