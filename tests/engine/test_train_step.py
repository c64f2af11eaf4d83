"""A step of several passes, and what processes tell each other at its end."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from eql_seesaw.engine.train_step import AccumulatingTrainer, NonFiniteLossError


class Regression(nn.Module):
    """Images are pairs (x, y); two losses."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1, dtype=torch.float64)
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.zeros_(self.layer.bias)

    def forward(self, images):
        x = torch.stack([image["x"] for image in images])
        y = torch.stack([image["y"] for image in images])
        error = self.layer(x)[:, 0] - y
        return {"loss_square": error.square().mean(), "loss_absolute": error.abs().mean()}


def images(count, start=0):
    generator = torch.Generator().manual_seed(start)
    return [
        {
            "x": torch.randn(3, generator=generator, dtype=torch.float64),
            "y": torch.randn((), generator=generator, dtype=torch.float64),
            "file_name": f"{start + i}.jpg",
        }
        for i in range(count)
    ]


def train(batches, num_passes, steps):
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = AccumulatingTrainer(model, batches, optimizer, num_passes)
    logged = []
    with EventStorage() as storage:
        for trainer.iter in range(steps):
            storage.iter = trainer.iter
            trainer.run_step()
            logged.append({key: value for key, (value, _) in storage.latest().items()})
    return model, logged, trainer


def test_passes_make_the_step_of_one_large_batch():
    """Gradients, updates with momentum, and logged losses are those of the whole batch."""
    pool = images(24)
    whole, logged_whole, _ = train([pool[i : i + 8] for i in range(0, 24, 8)], 1, steps=3)
    parts, logged_parts, _ = train([pool[i : i + 2] for i in range(0, 24, 2)], 4, steps=3)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())
    assert not parts.layer.weight.equal(Regression().layer.weight)
    for one, other in zip(logged_whole, logged_parts, strict=True):
        assert set(one) == {"loss_square", "loss_absolute", "total_loss", "data_time"}
        for name in set(one) - {"data_time"}:
            assert math.isclose(one[name], other[name], rel_tol=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_before_the_weights_change(value):
    pool = images(8)
    pool[5]["y"] = torch.tensor(value, dtype=torch.float64)
    batches = [pool[i : i + 2] for i in range(0, 8, 2)]
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = AccumulatingTrainer(model, batches, optimizer, num_passes=2)
    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        trainer.iter = 1
        with pytest.raises(NonFiniteLossError) as error:
            trainer.run_step()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    message = str(error.value)
    assert message.startswith("iteration 1, learning rate 0.1: a loss is not finite; loss_square ")
    assert f"loss_absolute {value}" in message and "\n" not in message
    # Those of the step, in both of its passes.
    assert message.endswith("images 4.jpg, 5.jpg, 6.jpg, 7.jpg")


def test_optimizer_is_resumed_or_starts_anew():
    _, _, trainer = train([images(2)] * 3, 1, steps=3)
    state = trainer.state_dict()
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fresh = AccumulatingTrainer(model, [], optimizer)
    fresh.load_state_dict({"iteration": 2})
    assert fresh.iter == 2 and not optimizer.state
    fresh.load_state_dict(state)
    buffers = [entry["momentum_buffer"] for entry in optimizer.state.values()]
    assert len(buffers) == 2 and all(buffer.any() for buffer in buffers)
