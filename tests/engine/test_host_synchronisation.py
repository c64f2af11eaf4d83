"""
No loss or statistic makes the host wait for the GPU. On the meta device, whose tensors have no
values, whatever would have to look at one raises: ``item``, ``tolist``, ``nonzero``, ``cpu``, a
boolean mask as an index, or a tensor as a condition.
"""

import itertools

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from eql_seesaw.engine import train_step
from eql_seesaw.engine.train_step import AccumulatingTrainer
from eql_seesaw.losses import LOSSES, build_loss, summed_together
from eql_seesaw.modeling import ClassGradients
from eql_seesaw.modeling.class_gradients import add_step
from eql_seesaw.modeling.classification_accuracy import PERIOD, ClassificationAccuracy

K = 5
STATISTICS = {"image_counts": [1, 5, 50, 500, 5000], "instance_counts": [2, 9, 99, 999, 9999]}
STATISTICS |= {"num_images": 6000, "num_steps": 9}
# What is not the default, and may go another way.
VARIANTS = [
    *((name, {}) for name in LOSSES),
    ("softmax_ce", {"objectness": True}),
    ("softmax_ce", {"reweighting": 0.8}),
    ("softmax_eql_v2", {"objectness": True}),
    ("equilibrium", {"objectness": True}),
    ("pcb", {"objectness": True}),
    ("seesaw", {"objectness": False}),
    ("seesaw", {"counts": "fixed"}),
    ("eql", {"excluding_function": False}),
    ("eql", {"threshold_function": "gompertz"}),
    ("eql", {"keep_annotated": True}),
    ("drop_loss", {"link": "gumbel"}),
]


def build(name, arguments):
    return build_loss(name, K, **STATISTICS, **arguments).to("meta")


def samples(loss, num_samples=8, dtype=torch.float32):
    logits = torch.empty(num_samples, loss.num_logits, device="meta", dtype=dtype)
    gt_classes = torch.empty(num_samples, device="meta", dtype=torch.int64)
    return logits.requires_grad_(), gt_classes


@pytest.mark.parametrize("look", [torch.Tensor.item, torch.Tensor.tolist, torch.nonzero, bool])
def test_looking_raises(look):
    with pytest.raises((RuntimeError, NotImplementedError)):
        look(torch.empty(1, device="meta"))


@pytest.mark.parametrize("name, arguments", VARIANTS)
def test_losses(name, arguments):
    loss = build(name, arguments)
    for num_samples, dtype in ((8, torch.float32), (8, torch.float16), (0, torch.float32)):
        logits, gt_classes = samples(loss, num_samples, dtype)
        annotated_classes = torch.empty(num_samples, K, device="meta", dtype=torch.bool)
        total = sum(loss(logits, gt_classes, annotated_classes).values())
        total.backward()
        assert logits.grad.shape == logits.shape
        assert loss.probabilities(logits).shape == (num_samples, K + 1)
        assert loss.predicted_classes(logits).shape == (num_samples,)


def test_cascade_of_losses():
    losses = [build("eql_v2", {}), build("seesaw", {})]
    inputs = [samples(loss) for loss in losses]
    with summed_together(losses, [gt_classes for _, gt_classes in inputs]):
        for loss, (logits, gt_classes) in zip(losses, inputs, strict=True):
            sum(loss(logits, gt_classes).values()).backward()


def test_accuracy_looks_once_a_period():
    accuracy = ClassificationAccuracy(K, "rrccf")
    classes = torch.empty(8, device="meta", dtype=torch.int64)
    with EventStorage() as storage:
        for storage.iter in range(PERIOD - 1):
            accuracy.update(classes, classes, storage)
        storage.iter = PERIOD - 1
        with pytest.raises(RuntimeError):
            accuracy.update(classes, classes, storage)


def test_class_gradients():
    gradients = ClassGradients(K).to("meta")
    logits = torch.empty(8, K + 1, device="meta", requires_grad=True)
    gradients.watch(logits, torch.empty(8, device="meta", dtype=torch.int64))
    logits.sum().backward()
    add_step(gradients)


class Classifier(nn.Module):
    """Images are numbers of samples."""

    def __init__(self):
        super().__init__()
        self.loss = build("seesaw", {})
        self.layer = nn.Linear(3, self.loss.num_logits, device="meta")

    def forward(self, images):
        features = torch.empty(images[0]["num_samples"], 3, device="meta")
        gt_classes = torch.empty(len(features), device="meta", dtype=torch.int64)
        return self.loss(self.layer(features), gt_classes)


def test_step_looks_once_however_many_passes_and_losses(monkeypatch):
    """At its end, where the losses of all processes are exchanged."""
    looks = []

    def all_gather(row):
        looks.append(row.shape)
        return [[0.0] * len(row)]

    monkeypatch.setattr(train_step, "_all_gather", all_gather)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = itertools.repeat([{"num_samples": 8}])
    trainer = AccumulatingTrainer(model, batches, optimizer, num_passes=3)
    with EventStorage():
        trainer.run_step()
        trainer.run_step()
    # Two losses, and what else there is to tell.
    assert looks == [(5,), (5,)]
