"""What a run comes to know of its video files: which could not be read, and what read the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.streams import Stream
from mtpeft.data.video.clips import Clips
from mtpeft.data.video.dataset import SkipTally
from mtpeft.runs.distributed import gather
from mtpeft.runs.folder import RunFolder


class ClipFiles:
    """The tallies of every part of a stream that is clips; of others there is nothing to know."""

    def __init__(self, stream: Stream | DenseStream) -> None:
        """Nothing is known yet."""
        self.stream = stream

    def _tallies(self) -> dict[str, SkipTally]:
        parts = {f"{t.name} {part}": getattr(t, part) for t in self.stream for part in ("train", "test")}
        return {name: clips.tally for name, clips in parts.items() if isinstance(clips, Clips)}

    def join(self) -> None:
        """Let every process know of the files that the others met."""
        if tallies := self._tallies():
            for found in gather({name: (sorted(t.skipped), t.readers) for name, t in tallies.items()}):
                for name, (skipped, readers) in found.items():
                    tallies[name].update(skipped, readers)

    def tell(self, task: Any, folder: RunFolder, message: Callable[[str], None]) -> None:
        """Tell of a task's training files that others stood for, as they could not be read, and of those another decoder read."""
        if not isinstance(task.train, Clips):
            return
        if skipped := task.train.skipped:
            folder.log("skipped", task=task.name, files=list(skipped))
            message(
                f"task {task.name!r}: {len(skipped)} of {len(task.train)} training files cannot be read and were replaced, "
                f"first: {skipped[0]}"
            )
        readers = task.train.readers
        if not all(reader.startswith(task.train.facts["decoder"]) for reader in readers):
            folder.log("readers", task=task.name, readers=readers)
            told = "; ".join(f"{reader}: {count}" for reader, count in readers.items())
            message(f"task {task.name!r}: training files by what read them: {told}")

    def state(self) -> dict[str, Any]:
        """Plain values, for a later `restore`."""
        return {
            "skipped": {t.name: list(t.train.skipped) for t in self.stream if isinstance(t.train, Clips)},
            "readers": {name: tally.readers for name, tally in self._tallies().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Know again what `state` knew."""
        for task in self.stream:
            if isinstance(task.train, Clips):
                task.train.tally.update(state["skipped"].get(task.name, ()))
        for name, tally in self._tallies().items():
            tally.update((), state["readers"].get(name))
