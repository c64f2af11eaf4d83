"""One step of training: some passes over images, then one update of the weights."""

import contextlib
import math
import time
from collections.abc import Iterable
from typing import cast

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class NonFiniteLossError(FloatingPointError):
    """A loss became NaN or infinite; the weights are as before the step."""


class AccumulatingTrainer(SimpleTrainer):
    """
    Detectron2's training loop with several forward and backward passes for each update: of the mean
    of the passes' losses. At the end of each step the processes exchange their losses in one
    all-gather, so that all of them stop, before the weights change, where one has a loss that is
    not finite, and all of them know of it where one was asked to stop.

    Args:
        model: in training it returns a dict of scalar losses, the same names in every process.
        data_loader: yields the images of one pass of this process.
        mixed_precision: float16 or bfloat16, used where autocast allows; None for float32. float16
            needs a GPU, and its gradients are scaled.

    Attributes:
        asked_to_stop (bool): set it to ask all processes to stop; true in each of them after the
            step in which one was asked.
        unreadable (list[str]): what this process skipped in the step's images, one line each;
            num_unreadable (int) as many as there were in all processes.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        num_passes: int = 1,
        mixed_precision: torch.dtype | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.num_passes = num_passes
        self.mixed_precision = mixed_precision
        # Except with float16 it hands everything through: bfloat16 has the range of float32.
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=mixed_precision == torch.float16)
        self.asked_to_stop = False
        self.unreadable: list[str] = []
        self.num_unreadable = 0

    def run_step(self) -> None:
        """
        Raises:
            NonFiniteLossError: one line with iteration, losses, learning rate and images.
        """
        assert self.model.training, "the model was left in evaluation mode"
        self.optimizer.zero_grad()
        device, dtype = next(self.model.parameters()).device, self.mixed_precision
        losses: dict[str, torch.Tensor] = {}
        images, data_time = [], 0.0
        for index in range(self.num_passes):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            images += batch
            with self._without_exchange(index + 1 < self.num_passes):
                with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
                    pass_losses = self._losses(batch, images)
                for name, loss in pass_losses.items():
                    mean = loss.detach() / self.num_passes
                    losses[name] = losses[name] + mean if name in losses else mean
                # There are losses, so not the 0 that sum() begins with.
                total = cast(torch.Tensor, sum(pass_losses.values())) / self.num_passes
                self.grad_scaler.scale(total).backward()
        self.after_backward()
        self._exchange(losses, images, data_time)
        # So that gradients are clipped at their true size.
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """As the base class; without "optimizer" the optimizer starts anew."""
        self.iter = state_dict["iteration"]
        if "optimizer" in state_dict:
            self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.grad_scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    def _losses(self, batch: list[dict], images: list[dict]) -> dict[str, torch.Tensor]:
        try:
            return self.model(batch)
        except FloatingPointError as error:  # Detectron2's, of proposals, before there are losses
            reason = " ".join(str(error).split()).rstrip(".")
            raise self._error(f"{reason}; {_name_images(images)}") from error

    def _without_exchange(self, is_asked: bool) -> contextlib.AbstractContextManager:
        """Context in which, if asked for, gradients are not averaged over processes yet."""
        if is_asked and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _exchange(
        self, losses: dict[str, torch.Tensor], images: list[dict], data_time: float
    ) -> None:
        """Tell the other processes how the step went, and log what they say."""
        self.unreadable = [line for image in images for line in image.get("unreadable", ())]
        values = [loss.double() for loss in losses.values()]
        others = (float(self.asked_to_stop), float(len(self.unreadable)), data_time)
        row = torch.stack([*values, *torch.tensor(others, dtype=torch.float64).to(values[0])])
        rows = _all_gather(row)
        *columns, asked_to_stop, num_unreadable, data_times = zip(*rows, strict=True)
        self.asked_to_stop = any(asked_to_stop)
        self.num_unreadable = int(sum(num_unreadable))
        if not all(math.isfinite(value) for column in columns for value in column):
            self._raise_non_finite(dict(zip(losses, rows[comm.get_rank()])), images)

        means = {name: sum(column) / len(column) for name, column in zip(losses, columns)}
        storage = get_event_storage()
        storage.put_scalar("data_time", max(data_times))
        storage.put_scalar("total_loss", sum(means.values()))
        if len(means) > 1:
            storage.put_scalars(**means)

    def _raise_non_finite(self, losses: dict[str, float], images: list[dict]) -> None:
        own = ""
        if not all(map(math.isfinite, losses.values())):
            values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            where = f"rank {comm.get_rank()}: " if comm.get_world_size() > 1 else ""
            own = f"{where}{values}; {_name_images(images)}"
        raise self._error("; ".join(filter(None, ["a loss is not finite", *comm.all_gather(own)])))

    def _error(self, reason: str) -> NonFiniteLossError:
        learning_rate = self.optimizer.param_groups[0]["lr"]
        return NonFiniteLossError(
            f"iteration {self.iter}, learning rate {learning_rate:.4g}: {reason}"
        )


def _name_images(images: list[dict]) -> str:
    return f"images {', '.join(str(image['file_name']) for image in images)}"


def _all_gather(row: torch.Tensor) -> list[list[float]]:
    """The rows of all processes, on the CPU."""
    if comm.get_world_size() == 1:
        return [row.tolist()]
    rows = [torch.empty_like(row) for _ in range(comm.get_world_size())]
    dist.all_gather(rows, row)
    return torch.stack(rows).tolist()
