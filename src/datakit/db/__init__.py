"""SQLAlchemy engines that follow a failover, and transactions neither lost nor run twice."""

from datakit.db.classification import classify
from datakit.db.description import describe
from datakit.db.endpoint import Endpoint
from datakit.db.engine import attach, create_async_engine, create_engine
from datakit.db.pinning import PinningCause, PinningWarning
from datakit.db.pinning_lint import lint_pinning
from datakit.db.transactions import run_transaction, transaction
from datakit.resilience import Verdict

__all__ = [
    "Endpoint",
    "PinningCause",
    "PinningWarning",
    "Verdict",
    "attach",
    "classify",
    "create_async_engine",
    "create_engine",
    "describe",
    "lint_pinning",
    "run_transaction",
    "transaction",
]
