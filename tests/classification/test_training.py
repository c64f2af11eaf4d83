"""Groups, accuracies, networks, schedules, and the training loop."""

from dataclasses import replace

import pytest
import torch

from eql_seesaw.classification.backbones import resnet10, resnet32, small_cnn
from eql_seesaw.classification.datasets import load_digits
from eql_seesaw.classification.recipes import RECIPES, cosine
from eql_seesaw.classification.training import (
    accuracies,
    groups_of_classes,
    loss_and_classifier,
    predict,
    train,
)
from eql_seesaw.normed_layers import NormedLinear

SHORT = replace(RECIPES["digits"], iterations=3)


def test_groups_are_those_of_imagenet_lt():
    groups = groups_of_classes([500, 101, 100, 20, 19, 0], (20, 100))
    assert groups == ["many", "many", "medium", "medium", "few", "few"]


def test_accuracies_by_hand():
    true = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    first = torch.tensor([0, 0, 0, 1, 1, 0, 0, 1])
    second = torch.tensor([1, 1, 1, 0, 2, 2, 2, 0])
    predicted = torch.stack([first, second], dim=1)
    result = accuracies(predicted, true, ["many", "medium", "few"])
    assert result == {"overall": 50, "top5": 75, "many": 75, "medium": 50, "few": 0}
    # Two classes in a group, and groups without classes.
    result = accuracies(torch.tensor([[0], [1], [0]]), torch.tensor([0, 1, 1]), ["many", "many"])
    assert result["many"] == pytest.approx(200 / 3)
    result = accuracies(torch.tensor([[0]]), torch.tensor([0]), ["medium"])
    assert (result["many"], result["medium"], result["few"]) == (None, 100, None)


def test_backbones():
    backbone = resnet32()
    convolutions = [x for x in backbone.modules() if isinstance(x, torch.nn.Conv2d)]
    assert len(convolutions) == 31  # the classifier is the 32nd layer
    assert 0.46e6 < sum(x.numel() for x in backbone.parameters()) + 65 * 100 < 0.48e6
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, 64)
    assert resnet10()(torch.rand(2, 3, 64, 64)).shape == (2, 512)
    assert small_cnn()(torch.rand(2, 1, 8, 8)).shape == (2, 1024)


def test_schedules():
    schedule = RECIPES["cifar100-lt"].schedule
    at = {i: schedule(i / 12800) for i in (0, 200, 400, 6399, 6400, 9599, 9600)}
    expected = {0: 0.5, 200: 0.75, 400: 1, 6399: 1, 6400: 0.1, 9599: 0.1, 9600: 0.01}
    assert at == pytest.approx(expected)
    schedule = RECIPES["imagenet-lt-resnet10"].schedule
    at = {i: 0.4 * schedule(i / 12000) for i in (0, 250, 500, 3399, 3400, 6800, 10200)}
    expected = {0: 0.1, 250: 0.25, 500: 0.4, 3399: 0.4, 3400: 4e-2, 6800: 4e-3, 10200: 4e-4}
    assert at == pytest.approx(expected)
    assert [cosine(x) for x in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_weights_are_of_the_seed_and_the_loss():
    data = load_digits(50, torch.Generator().manual_seed(0))
    first, again, other = (train(data, "softmax_eql", SHORT, seed) for seed in (0, 0, 1))
    for a, b in zip(first.parameters(), again.parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(first[1].weight, other[1].weight)
    assert first[1].out_features == 10


def test_bfloat16_trains_nearly_alike():
    data = load_digits(50, torch.Generator().manual_seed(0))
    exact, rounded = (
        train(data, "softmax_ce", replace(SHORT, bfloat16=bfloat16), 0)[1].weight
        for bfloat16 in (False, True)
    )
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=5e-3)


def test_every_loss_trains_in_its_own_way():
    """Balanced softmax and logit adjustment with tau = 1 are the same without background."""
    data = load_digits(50, torch.Generator().manual_seed(0))
    methods = [*SHORT.losses, "seesaw,p=0", "seesaw,q=0", "seesaw,classifier=normed"]
    methods.remove("logit_adjustment")
    weights = [train(data, method, SHORT, 0)[1].weight for method in methods]
    for i, weight in enumerate(weights):
        assert torch.isfinite(weight).all()
        assert not any(torch.equal(weight, other) for other in weights[:i])


def test_what_a_method_asks_for():
    counts = [90, 9, 1]
    loss, classifier = loss_and_classifier(
        "seesaw,p=0.5,classifier=normed,temperature=30", SHORT, counts
    )
    assert (loss.p, loss.q) == (0.5, 1.0)
    assert type(classifier) is NormedLinear and classifier.temperature == 30
    assert type(loss_and_classifier("seesaw", SHORT, counts)[1]) is torch.nn.Linear
    loss, classifier = loss_and_classifier("ldam,temperature=30", SHORT, counts)
    assert type(classifier) is NormedLinear and loss.scale == 30
    assert loss_and_classifier("ldam,temperature=30,scale=12", SHORT, counts)[0].scale == 12
    features = replace(RECIPES["features"], num_features=4)
    assert type(loss_and_classifier("seesaw", features, counts)[1]) is NormedLinear
    # A number of images in place of the recipe's frequency.
    loss, _ = loss_and_classifier("softmax_eql,max_image_count=9", features, counts)
    assert loss.protected_classes.tolist() == [False, True, True]


def test_predictions_keep_the_order_of_images():
    data = load_digits(50, torch.Generator().manual_seed(0))
    model = train(data, "softmax_ce", SHORT, 0)
    predicted, true = predict(model, data.test, SHORT)
    images, labels = data.test.tensors
    assert torch.equal(true, labels)
    assert torch.equal(predicted, model(images).argsort(dim=1, descending=True)[:, :5])


@pytest.mark.parametrize("data", RECIPES)
def test_softmax_eql_protects_the_classes_it_should(data):
    """lambda, as a number of images: E's 3e-3 of 9,502 and 4.3e-4 of 115,846 images."""
    settings = RECIPES[data].losses["softmax_eql"]
    if data == "digits":
        assert settings["max_image_count"] == RECIPES[data].group_bounds[0] - 1
    else:
        images, expected = (115846, 49.8) if "imagenet" in data else (9502, 28.5)
        assert settings["lambda_"] * images == pytest.approx(expected, abs=0.05)
