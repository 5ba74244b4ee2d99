"""SQLAlchemy engines that follow a failover, and transactions neither lost nor run twice."""

from datakit.db.classification import classify
from datakit.db.engine import create_async_engine, create_engine
from datakit.db.pinning import PinningCause, PinningWarning
from datakit.db.pinning_lint import lint_pinning
from datakit.db.transactions import run_transaction, transaction
from datakit.resilience import Verdict

__all__ = [
    "PinningCause",
    "PinningWarning",
    "Verdict",
    "classify",
    "create_async_engine",
    "create_engine",
    "lint_pinning",
    "run_transaction",
    "transaction",
]
