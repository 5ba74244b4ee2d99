"""Optional packages, imported at their first use."""

from importlib import import_module
from types import ModuleType

from datakit.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return the imported module.

    Raises:
        MissingExtraError: it is not installed; the message holds the pip command.
    """
    try:
        return import_module(module)
    except ImportError as exc:
        raise MissingExtraError(
            f"{purpose} needs {module.partition('.')[0]}: pip install 'datakit[{extra}]'",
            name=module,
        ) from exc
