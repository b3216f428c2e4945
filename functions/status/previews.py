"""The newest preview of every task that runs, in memory alone: a preview is worth nothing after a restart."""

from collections import OrderedDict

from tasks.preview import Preview
from tasks.state import TaskState

MOST_TASKS = 1024
"""Tasks whose previews are kept, at most 8 KB each; the one that was updated longest ago is dropped first."""


class Previews:
    """By task id."""

    def __init__(self) -> None:
        """None yet."""
        self._newest: OrderedDict[str, Preview] = OrderedDict()

    def __contains__(self, task_id: str) -> bool:
        """Whether the task has a preview."""
        return task_id in self._newest

    def get(self, task_id: str) -> Preview | None:
        """The newest preview of the task, if it has one."""
        return self._newest.get(task_id)

    def put(self, preview: Preview, state: TaskState) -> bool:
        """Keep the preview if it is the newest of a task in this state; whether it was kept.

        The topics are read independently of each other, so a preview may arrive before the Started event of its
        attempt, and after the end of the task.
        """
        task_id, before = preview.task_id, self._newest.get(preview.task_id)
        if state.ended or not _may_show(preview, state):
            return False
        if before is not None and (preview.attempt, preview.step) <= (before.attempt, before.step):
            return False
        self._newest[task_id] = preview
        self._newest.move_to_end(task_id)
        while len(self._newest) > MOST_TASKS:
            self._newest.popitem(last=False)
        return True

    def update(self, task_id: str, state: TaskState) -> None:
        """Drop the preview of a task that has moved to this state and no longer runs the attempt it shows, or that
        another owner runs than the preview says."""
        preview = self._newest.get(task_id)
        if preview is not None and not (state.status == "running" and _may_show(preview, state)):
            del self._newest[task_id]


def _may_show(preview: Preview, state: TaskState) -> bool:
    """Whether the preview can be of the running attempt or of the next one. Anyone who can write to Kafka can write a
    preview: one of an attempt far ahead would otherwise hide all later ones."""
    if state.status != "running":
        return preview.attempt == state.attempt + 1
    return preview.owner == state.owner and preview.attempt in (state.attempt, state.attempt + 1)
