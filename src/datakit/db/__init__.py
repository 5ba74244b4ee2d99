"""SQLAlchemy engines that follow a failover, and transactions neither lost nor run twice."""

from datakit._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datakit.db.classification import classify
    from datakit.db.description import describe
    from datakit.db.endpoint import Endpoint
    from datakit.db.engine import attach, create_async_engine, create_engine
    from datakit.db.pinning import PinningCause, PinningWarning
    from datakit.db.pinning_lint import lint_pinning
    from datakit.db.routing import routing_sessionmaker
    from datakit.db.transactions import run_transaction, transaction, transactional
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
    "routing_sessionmaker",
    "run_transaction",
    "transaction",
    "transactional",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "classify": "datakit.db.classification",
        "describe": "datakit.db.description",
        "Endpoint": "datakit.db.endpoint",
        "attach": "datakit.db.engine",
        "create_async_engine": "datakit.db.engine",
        "create_engine": "datakit.db.engine",
        "PinningCause": "datakit.db.pinning",
        "PinningWarning": "datakit.db.pinning",
        "lint_pinning": "datakit.db.pinning_lint",
        "routing_sessionmaker": "datakit.db.routing",
        "Verdict": "datakit.resilience.verdict",
        "run_transaction": "datakit.db.transactions",
        "transaction": "datakit.db.transactions",
        "transactional": "datakit.db.transactions",
    },
)
