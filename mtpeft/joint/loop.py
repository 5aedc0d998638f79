"""MMEngine's Runner for joint training: a train loop of steps, and the device of the recipe.

MMEngine's own loop replays the loader to resume and sleeps two seconds at the end of each pass over the data; this one
starts at a step, on a loader that starts there too and has no end.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from mtpeft.joint.model import JointModel
from mtpeft.joint.optim import UpdateWrapper
from mtpeft.runs.distributed import all_well, world

#: MMEngine's default hooks: none. Its checkpoints cannot be loaded safely, its schedulers and logs are done here.
NO_HOOKS = dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"))


@LOOPS.register_module(force=True)
class StepLoop(BaseLoop):
    """Steps `start` to `steps - 1`, one item of the loader each."""

    def __init__(self, runner: Runner, dataloader: DataLoader[Any], steps: int, start: int = 0) -> None:
        """`dataloader` begins with step `start`."""
        super().__init__(runner, dataloader)
        self._max_iters, self._iter, self._epoch, self._max_epochs = steps, start, 0, 1
        self.stop_training = False

    @property
    def iter(self) -> int:
        """The step that runs, from 0."""
        return self._iter

    @property
    def max_iters(self) -> int:
        """The number of steps."""
        return self._max_iters

    @property
    def epoch(self) -> int:
        """Always 0: the run is one epoch to MMEngine."""
        return self._epoch

    @property
    def max_epochs(self) -> int:
        """Always 1."""
        return self._max_epochs

    def run(self) -> nn.Module:
        """Train to the end, or until a hook sets `stop_training`."""
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        batches = iter(self.dataloader) if self._iter < self._max_iters else iter(())
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            batch = next(batches)
            runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batch)
            outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=outputs)
            self._iter += 1
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model


@RUNNERS.register_module(force=True)
class JointRunner(Runner):
    """MMEngine's Runner on the model's own device; gradients are summed over processes by the model itself."""

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """The model as it is."""
        return model

    def dump_config(self) -> None:
        """Nothing: the run folder has the recipe already."""


def build_runner(
    model: JointModel,
    loader: DataLoader[Any],
    optim_wrapper: UpdateWrapper,
    hooks: list[Hook],
    steps: int,
    start: int,
    work_dir: Path,
    seed: int,
) -> JointRunner:
    """A Runner over ready parts. It logs nothing: `mtpeft.runs.logs` does, in both engines."""
    all_well()  # MMEngine's own exchange comes now
    state = torch.get_rng_state()
    runner = JointRunner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={"type": "StepLoop", "steps": steps, "start": start},
        optim_wrapper=optim_wrapper,
        default_hooks=dict(NO_HOOKS),
        custom_hooks=hooks,
        launcher="pytorch" if world() > 1 else "none",
        visualizer={"type": "Visualizer", "vis_backends": None},
        log_level=logging.ERROR,
        randomness={"seed": seed},
        default_scope="mmengine",
        experiment_name=uuid.uuid4().hex,  # MMEngine would give two runs of one second the same log and visualiser
    )
    torch.set_rng_state(state)
    return runner
