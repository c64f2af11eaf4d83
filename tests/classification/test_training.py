"""Groups, accuracies, networks, schedules, and the training loop."""

from dataclasses import replace

import pytest
import torch

from eql_seesaw.classification.backbones import resnet32, small_cnn
from eql_seesaw.classification.datasets import load_digits
from eql_seesaw.classification.recipes import RECIPES, cosine, steps_with_warm_up
from eql_seesaw.classification.training import accuracies, groups_of_classes, predict, train

SHORT = replace(RECIPES["digits"], iterations=3)


def test_groups_are_those_of_imagenet_lt():
    groups = groups_of_classes([500, 101, 100, 20, 19, 0], (20, 100))
    assert groups == ["many", "many", "medium", "medium", "few", "few"]


def test_accuracies_by_hand():
    true = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0, 0, 1])
    result = accuracies(predicted, true, ["many", "medium", "few"])
    assert result == {"overall": 50, "many": 75, "medium": 50, "few": 0}
    # Two classes in a group, and groups without classes.
    result = accuracies(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]), ["many", "many"])
    assert result["many"] == pytest.approx(200 / 3)
    result = accuracies(torch.tensor([0]), torch.tensor([0]), ["medium"])
    assert result == {"overall": 100, "many": None, "medium": 100, "few": None}


def test_backbones():
    backbone = resnet32()
    convolutions = [x for x in backbone.modules() if isinstance(x, torch.nn.Conv2d)]
    assert len(convolutions) == 31  # the classifier is the 32nd layer
    assert 0.46e6 < sum(x.numel() for x in backbone.parameters()) + 65 * 100 < 0.48e6
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, 64)
    assert small_cnn()(torch.rand(2, 1, 8, 8)).shape == (2, 1024)


def test_schedules():
    at = {i: steps_with_warm_up(i / 12800) for i in (0, 200, 400, 6399, 6400, 9599, 9600)}
    expected = {0: 0.5, 200: 0.75, 400: 1, 6399: 1, 6400: 0.1, 9599: 0.1, 9600: 0.01}
    assert at == pytest.approx(expected)
    assert [cosine(x) for x in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_weights_are_of_the_seed_and_the_loss():
    data = load_digits(50, torch.Generator().manual_seed(0))
    first, again, other = (train(data, "softmax_eql", SHORT, seed) for seed in (0, 0, 1))
    for a, b in zip(first.parameters(), again.parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(first[1].weight, other[1].weight)
    assert first[1].out_features == 10
    weights = [train(data, loss, SHORT, 0)[1].weight for loss in SHORT.losses]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_predictions_keep_the_order_of_images():
    data = load_digits(50, torch.Generator().manual_seed(0))
    model = train(data, "softmax_ce", SHORT, 0)
    predicted, true = predict(model, data.test, SHORT)
    images, labels = data.test.tensors
    assert torch.equal(true, labels)
    assert torch.equal(predicted, model(images).argmax(dim=1))


@pytest.mark.parametrize("data", RECIPES)
def test_softmax_eql_protects_the_classes_it_should(data):
    """lambda, as a number of images: E's 3e-3 of 9,502 and 4.3e-4 of 115,846 images."""
    settings = RECIPES[data].losses["softmax_eql"]
    if data == "digits":
        assert settings["max_image_count"] == RECIPES[data].group_bounds[0] - 1
    else:
        images = {"cifar100-lt": 9502, "imagenet-lt": 115846}[data]
        expected = {"cifar100-lt": 28.5, "imagenet-lt": 49.8}[data]
        assert settings["lambda_"] * images == pytest.approx(expected, abs=0.05)
