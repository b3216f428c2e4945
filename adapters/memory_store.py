"""The in-memory twin of the object store."""

from collections.abc import Sequence

from tasks.errors import RangeNotSatisfiable, StoreUnavailable, UnknownImage
from tasks.events import Outcome
from tasks.object_keys import is_plain, outcome_key
from tasks.outcome_json import read_outcome


class MemoryStore:
    """Objects in a dict. While `down` is set, every call raises StoreUnavailable."""

    def __init__(self) -> None:
        """An empty store."""
        self.objects: dict[str, bytes] = {}
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable(retry_after=1)

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        """See ImageStore."""
        self._check()
        self.objects[key] = data

    async def get_image(self, key: str, byte_range: tuple[int, int | None] | None = None) -> bytes:
        """See ImageStore."""
        self._check()
        if not is_plain(key) or key not in self.objects:
            raise UnknownImage
        data = self.objects[key]
        if byte_range is None:
            return data
        first, last = byte_range
        if first >= len(data):
            raise RangeNotSatisfiable
        return data[first:] if last is None else data[first : last + 1]

    async def put_outcome(self, outcome: Outcome) -> Outcome:
        """See ImageStore."""
        return read_outcome(
            outcome.task_id, await self.put_once(outcome_key(outcome.task_id), outcome.model_dump_json().encode())
        )

    async def get_outcome(self, task_id: str) -> Outcome | None:
        """See ImageStore."""
        self._check()
        data = self.objects.get(outcome_key(task_id))
        return None if data is None else read_outcome(task_id, data)

    async def delete_images(self, keys: Sequence[str]) -> None:
        """See ImageStore."""
        self._check()
        for key in keys:
            self.objects.pop(key, None)

    async def put_once(self, key: str, data: bytes) -> bytes:
        """See ImageStore."""
        self._check()
        return self.objects.setdefault(key, data)

    async def check_reachable(self) -> None:
        """See ImageStore."""
        self._check()
