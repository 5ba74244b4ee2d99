"""What a cache did so far, as counts."""

from dataclasses import dataclass, replace


@dataclass(slots=True)
class CacheStats:
    """Counts of one cache in this process since it was made. With threads they are near, not exact.

    hits: values served fresh. stale: served past their time. misses: nothing there to be served.
    loads, load_errors: runs of functions, and how many of them raised.
    stores: values stored after a load. outrun: loaded values not stored since their key was
        invalidated, replaced or leased to another meanwhile. lost_writes: stores that failed.
    unavailable: operations that failed or were not tried, the breaker being open.
    rejected: stored bytes of no use, and values without a stored form.
    invalidations, failed_invalidations: of `invalidate`, `delete`, `set` and `put`.
    in_doubt: keys that this process does not serve until an invalidation gets through.
    """

    hits: int = 0
    stale: int = 0
    misses: int = 0
    loads: int = 0
    load_errors: int = 0
    stores: int = 0
    outrun: int = 0
    lost_writes: int = 0
    unavailable: int = 0
    rejected: int = 0
    invalidations: int = 0
    failed_invalidations: int = 0
    in_doubt: int = 0

    def copy(self, *, in_doubt: int) -> "CacheStats":
        """Return the counts of now."""
        return replace(self, in_doubt=in_doubt)
