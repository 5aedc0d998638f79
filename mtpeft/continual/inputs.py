"""What a stream shows a manager: the shape of each task's images or clips."""

from __future__ import annotations

from mtpeft.data.dense.stream import DenseStream, LabelView
from mtpeft.data.streams import Stream
from mtpeft.data.video.clips import Clips
from mtpeft.manager.manager import TaskManager


def tasks_of(stream: Stream | DenseStream, manager: TaskManager) -> dict[str, str]:
    """{name of an experience: the manager's task}; a domain-incremental stream has one task."""
    one = stream.kind == "domain_incremental"
    return {task.name: manager.tasks[0] if one else task.name for task in stream}


def shapes_of(stream: Stream | DenseStream, manager: TaskManager) -> dict[str, tuple[int, ...]]:
    """{the manager's task: (C, H, W) of its images or (C, T, H, W) of its training clips}."""
    tasks = tasks_of(stream, manager)
    shapes: dict[str, tuple[int, ...]] = {}
    for task in stream:
        data, test = task.train, task.test
        if isinstance(data, Clips):
            size = data.dataset.transform.size
            shapes[tasks[task.name]] = (manager.anatomy.input_size[0], data.dataset.sampling.frames, size, size)
        elif isinstance(test, LabelView):
            shapes[tasks[task.name]] = tuple(test[0][0]["image"].shape)
        else:
            shapes[tasks[task.name]] = tuple(test.batch([0])[0].shape[1:])
    return shapes
