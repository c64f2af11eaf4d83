"""What every loss of the registry promises."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from eql_seesaw.losses import (
    LOSSES,
    AdaptiveClassSuppressionLoss,
    BalancedGroupSoftmax,
    DropLoss,
    SoftmaxEqualizationLoss,
    build_loss,
)

K = 6
IMAGE_COUNTS = [1, 7, 40, 100, 300, 9000]
STATISTICS = {
    "image_counts": IMAGE_COUNTS,
    "instance_counts": [2 * count for count in IMAGE_COUNTS],
    "num_images": 10_000,
    "num_steps": 0,
}
every_loss = pytest.mark.parametrize("name", LOSSES)
# Losses of which nothing is detached, so that numerical differentiation sees the same derivatives.
DIFFERENTIABLE = [
    *((name, {}) for name in LOSSES if name != "seesaw"),
    *(("seesaw", {"q": 0.0, "objectness": objectness}) for objectness in (True, False)),
    *((name, {"objectness": True}) for name in ("softmax_ce", "softmax_eql", "softmax_eql_v2")),
    *((name, {"objectness": True}) for name in ("equilibrium", "pcb")),
    *((name, {"objectness": True}) for name in ("balanced_softmax", "logit_adjustment", "ldam")),
    ("softmax_ce", {"reweighting": 0.8}),
    ("eql", {"keep_annotated": True}),
    ("eql", {"excluding_function": False}),
    ("eql", {"threshold_function": "gompertz"}),
    *((name, {"link": "gumbel"}) for name in ("sigmoid_ce", "eql", "drop_loss")),
    ("focal", {"gamma": 0.5}),
    ("focal", {"gamma": 0.0}),
    ("bags", {"others_ratio": 1.0}),
    ("federated", {"num_sampled": 4}),
]


def build(name):
    return build_loss(name, K, **STATISTICS)


def without_chance(loss):
    """The loss with settings under which its random draws make no difference."""
    if isinstance(loss, SoftmaxEqualizationLoss):
        loss.gamma = 1.0
    if isinstance(loss, BalancedGroupSoftmax):
        loss.others_ratio = 1e6
    if isinstance(loss, DropLoss):
        loss.draw_kept = lambda logits, probability: torch.ones_like(logits, dtype=torch.bool)
    if isinstance(loss, AdaptiveClassSuppressionLoss):
        loss.background_shares.fill_(1.0)
    return loss


def batch(loss, num_samples, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_samples, loss.num_logits, generator=generator)
    return logits.requires_grad_(), torch.randint(0, K + 1, (num_samples,), generator=generator)


def total(loss, logits, gt_classes):
    torch.manual_seed(0)  # some losses draw at random
    return sum(loss(logits, gt_classes).values())


def test_promised_numbers_of_logits():
    counts = [5] * 1203
    assert build_loss("eql", 1203, image_counts=counts, num_images=100_170).num_logits == 1203
    assert build_loss("softmax_ce", 1203).num_logits == 1204
    assert build_loss("seesaw", num_classes=1203).num_logits == 1205
    assert build_loss("seesaw", num_classes=1203, objectness=False).num_logits == 1204
    assert build_loss("seesaw", num_classes=1203, background=False).num_logits == 1203
    assert build_loss("softmax_ce", 1203, objectness=True).num_logits == 1205
    assert build_loss("softmax_ce", 1203, background=False).num_logits == 1203
    assert build_loss("focal", 1203).num_logits == 1203
    assert build_loss("class_balanced", 1203, instance_counts=counts).num_logits == 1203
    assert build_loss("bags", 1203, instance_counts=counts).num_logits == 1203 + 4 + 2
    assert build_loss("eql_v2", 1203).num_logits == 1204
    assert build_loss("equilibrium", 1203).num_logits == 1204
    assert build_loss("fcbl", 1203).num_logits == 1204
    assert build_loss("pcb", 1203, num_steps=9).num_logits == 1204
    assert build_loss("softmax_eql_v2", 1203).num_logits == 1204
    assert build_loss("equalized_focal", 1203).num_logits == 1203
    assert build_loss("federated", 1203, image_counts=counts).num_logits == 1203
    assert build_loss("balanced_softmax", 1203, image_counts=counts).num_logits == 1204
    assert build_loss("logit_adjustment", 1203, image_counts=counts).num_logits == 1204
    assert build_loss("ldam", 1203, instance_counts=counts).num_logits == 1204
    assert build_loss("drop_loss", 1203, image_counts=counts).num_logits == 1203
    assert build_loss("acsl", 1203, image_counts=counts).num_logits == 1204
    assert build_loss("ecm", 1203, image_counts=counts).num_logits == 1204
    sigmoid = build_loss("balanced_sigmoid", 1203, image_counts=counts, num_images=100_170)
    assert sigmoid.num_logits == 1203


@every_loss
def test_classifier_of_another_size_is_refused(name):
    loss = build(name)
    with pytest.raises(ValueError, match=f"with {loss.num_logits} outputs, got 99"):
        loss.init_classifier(torch.nn.Linear(3, 99))


@every_loss
@pytest.mark.parametrize("gt_classes", [[], [K, K, K]])
def test_no_samples_and_no_foreground(name, gt_classes):
    """The same names, finite values, and a gradient (maybe zero) for every parameter."""
    loss = build(name)
    classifier = torch.nn.Linear(4, loss.num_logits)
    losses = loss(classifier(torch.ones(len(gt_classes), 4)), torch.tensor(gt_classes).long())
    assert list(losses) == list(loss(*batch(loss, 5)))
    assert all(key.startswith("loss_cls") for key in losses)
    assert all(value.dim() == 0 and torch.isfinite(value) for value in losses.values())
    if not gt_classes:
        assert all(value == 0 for value in losses.values())
    for value in losses.values():  # each term must reach the classifier on its own
        classifier.zero_grad()
        value.backward(retain_graph=True)
        assert all(torch.isfinite(p.grad).all() for p in classifier.parameters())


@every_loss
def test_probabilities(name):
    loss = build(name)
    logits, _ = batch(loss, 9)
    probabilities = loss.probabilities(logits)
    assert probabilities.shape == (9, K + 1) and probabilities.dtype == torch.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert loss.probabilities(logits[:0]).shape == (0, K + 1)


@every_loss
def test_perfect_classifier_predicts_its_labels(name):
    """Gradient descent on the logits themselves ends at the right answer, background included."""
    loss = without_chance(build(name)).eval()
    gt_classes = torch.arange(K + 1)
    logits = torch.zeros(K + 1, loss.num_logits, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        total(loss, logits, gt_classes).backward()
        optimizer.step()
    assert loss.predicted_classes(logits).tolist() == gt_classes.tolist()


@every_loss
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), num_samples=st.integers(1, 12))
def test_order_of_samples_does_not_matter(name, seed, num_samples):
    loss = without_chance(build(name)).eval()
    logits, gt_classes = batch(loss, num_samples, seed)
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        total(loss, logits, gt_classes), total(loss, logits[order], gt_classes[order])
    )


# BAGS divides by the numbers of samples in its groups.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "bags"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(1, 8), second=st.integers(1, 8))
def test_a_batch_is_the_mean_of_its_parts(name, seed, first, second):
    loss = without_chance(build(name)).eval()
    logits, gt_classes = batch(loss, first + second, seed)
    parts = [
        total(loss, logits[rows], gt_classes[rows]) * len(gt_classes[rows])
        for rows in (slice(0, first), slice(first, None))
    ]
    torch.testing.assert_close(
        total(loss, logits, gt_classes), sum(parts) / (first + second), rtol=1e-5, atol=1e-6
    )


@every_loss
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_names_of_classes_do_not_matter(name, seed):
    """Permuting classes in statistics, logits and labels leaves the loss unchanged."""
    order = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    loss = without_chance(build(name)).eval()
    statistics = {**STATISTICS}
    for key in ("image_counts", "instance_counts"):
        statistics[key] = [STATISTICS[key][i] for i in order]
    permuted = without_chance(build_loss(name, K, **statistics)).eval()
    if name == "seesaw":
        loss.cumulative_counts.copy_(torch.tensor(IMAGE_COUNTS))
        permuted.cumulative_counts.copy_(torch.tensor(IMAGE_COUNTS)[order])
    logits, gt_classes = batch(loss, 10, seed)
    columns = torch.cat([order, torch.arange(K, loss.num_logits)])
    labels = torch.cat([order.argsort(), torch.tensor([K])])[gt_classes]
    torch.testing.assert_close(
        total(loss, logits, gt_classes), total(permuted, logits[:, columns], labels)
    )


@every_loss
def test_huge_logits_stay_finite(name):
    loss = build(name)
    for scale in (1e2, 1e4, 1e30):
        logits, gt_classes = batch(loss, 30, scale=scale)
        value = total(loss, logits, gt_classes)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


@every_loss
def test_masked_class(name):
    """A logit of -inf in all rows breaks neither the loss nor the statistics that come after it."""
    loss = build(name)
    for step in range(3):
        logits, gt_classes = batch(loss, 12, seed=step)
        gt_classes[gt_classes == 2] = 1
        logits = logits.detach()
        logits[:, 2] = -torch.inf
        logits.requires_grad_()
        value = total(loss, logits, gt_classes)
        value.backward()
        assert value.isfinite() and logits.grad.isfinite().all()


@every_loss
def test_blocks_of_rows_agree_with_one_block(name, monkeypatch):
    loss = without_chance(build(name)).eval()
    logits, gt_classes = batch(loss, 50)
    results = []
    for elements in (2**20, 3 * loss.num_logits, 1):
        monkeypatch.setattr("eql_seesaw.losses.row_blocks.CPU_BLOCK_ELEMENTS", elements)
        logits.grad = None
        value = total(loss, logits, gt_classes)
        value.backward()
        statistics = loss.logit_statistics(logits.detach(), gt_classes)
        results.append((value.detach(), logits.grad, statistics))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.parametrize("foreground", [2, 8])
@pytest.mark.parametrize("name, arguments", DIFFERENTIABLE)
def test_first_and_second_derivatives(name, arguments, foreground):
    """With few foreground samples and with foreground only, which may go different ways."""
    loss = build_loss(name, K, **STATISTICS, **arguments).eval()
    if hasattr(loss, "positive_gradients"):  # with EQL v2 weights of negatives from about 0 to 1
        loss.positive_gradients.copy_(torch.tensor([0.1, 5.0, 8.0, 9.0, 20.0, 5.0]))
    if hasattr(loss, "negative_gradients"):
        loss.negative_gradients.fill_(10.0)
    if name == "equilibrium":
        loss.mean_scores.copy_(torch.arange(1, K + 1) / 10)
    if name == "pcb":
        loss.confusion.copy_(torch.arange(1, K * K + 1).view(K, K))
    if name == "fcbl":  # margins from 0 to 4
        loss.probability_sums.copy_(torch.arange(K * K).view(K, K) / 40)
        loss.samples.fill_(1)
    logits, _ = batch(loss, 8, scale=1.0)
    logits = logits.detach().double().requires_grad_()
    gt_classes = torch.tensor([0, 5, 2, 1, 3, 0, 2, 4])
    gt_classes[foreground:] = K
    annotated = torch.rand(8, K, generator=torch.Generator().manual_seed(1)) < 0.5

    def losses(logits):
        torch.manual_seed(0)
        return tuple(loss(logits, gt_classes, annotated).values())

    assert gradcheck(losses, logits)
    assert gradgradcheck(losses, logits)
    # ... and where both are there, the gradient with and without a graph of it are the same.
    (plain,) = torch.autograd.grad(sum(losses(logits)), logits)
    (with_graph,) = torch.autograd.grad(sum(losses(logits)), logits, create_graph=True)
    torch.testing.assert_close(with_graph, plain, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
@every_loss
def test_compiled_loss_is_the_same(name):
    """Also of another number of samples, which torch.compile makes a variable at its second."""
    torch.compiler.reset()  # after many losses it would give up, and run them as they are
    loss, other = build(name), build(name)
    compiled = torch.compile(other, backend="aot_eager")  # needs no C++ compiler
    for num_samples in (16, 9, 33):
        logits, gt_classes = batch(loss, num_samples, seed=num_samples)
        same_logits = logits.detach().clone().requires_grad_()
        value, expected = total(compiled, same_logits, gt_classes), total(loss, logits, gt_classes)
        value.backward()
        expected.backward()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(same_logits.grad, logits.grad)
        torch.testing.assert_close(other.state_dict(), loss.state_dict())


@pytest.mark.parametrize("name", ["softmax_eql", "bags", "federated", "drop_loss", "acsl"])
def test_draws_are_seedable(name):
    counts = [1, 7, 40, 100, 101, 9000]
    draws = {"softmax_eql": {"gamma": 0.5}, "bags": {"others_ratio": 1.0}}
    draws["federated"] = {"num_sampled": 4}
    draws["acsl"] = {"background_shares": (0.5, 0.5)}
    statistics = {"image_counts": counts, "instance_counts": counts, **draws.get(name, {})}
    values = []
    for seed in (1, 1, 2, 3, 4):
        generator = torch.Generator().manual_seed(seed)
        loss = build_loss(name, K, **statistics, generator=generator)
        logits, gt_classes = batch(loss, 20)
        gt_classes[:2], gt_classes[2:] = torch.tensor([0, 5]), K
        values.append(sum(loss(logits, gt_classes).values()).item())
        torch.manual_seed(seed)  # without a generator of its own, torch's
        values.append(sum(build_loss(name, K, **statistics)(logits, gt_classes).values()).item())
    assert values[:2] == values[2:4] and len(set(values[::2])) > 1 < len(set(values[1::2]))


@every_loss
def test_statistics_stand_still_outside_training_and_without_samples(name):
    loss = build(name)
    logits, gt_classes = batch(loss, 20)
    loss(logits, gt_classes)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss(logits[:0], gt_classes[:0])
    with torch.no_grad():
        loss(logits, gt_classes)
    loss.eval()(logits, gt_classes)
    torch.testing.assert_close(dict(loss.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sigmoid_ce", "eql_v2", "federated", "focal"])
def test_classifier_starts_at_the_prior_probability(name):
    loss = build_loss(name, K, **STATISTICS, prior_probability=0.02)
    classifier = torch.nn.Linear(3, loss.num_logits)
    loss.init_classifier(classifier)
    torch.testing.assert_close(classifier.bias.sigmoid(), torch.full_like(classifier.bias, 0.02))
    assert build("federated").prior_probability == 0.01  # of its released code
    assert build("eql").prior_probability == 0.001


@every_loss
def test_wrong_inputs(name):
    loss = build(name)
    logits, gt_classes = batch(loss, 4)
    with pytest.raises(ValueError, match="logits of shape"):
        loss(logits[:, 1:], gt_classes)
    with pytest.raises(ValueError, match="gt_classes must be integers of shape"):
        loss(logits, gt_classes[1:])
    with pytest.raises(ValueError, match="gt_classes must be integers of shape"):
        loss(logits, gt_classes.float())
    for label in (-1, K + 1):
        with pytest.raises(ValueError, match=f"got {label}"):
            loss(logits, torch.tensor([0, 1, 2, label]))


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("seesaw", {"p": -1}, "p and q"),
        ("seesaw", {"eps": 0}, "eps"),
        ("seesaw", {"counts": "guessed"}, "counts must be one of"),
        ("seesaw", {"counts": "fixed", "instance_counts": None}, "instance_counts"),
        ("seesaw", {"counts": "fixed", "instance_counts": [1, 2]}, "2 entries for num_classes=6"),
        ("seesaw", {"counts": "fixed", "objectness": False}, "objectness"),
        ("eql", {"image_counts": None}, "image_counts"),
        ("eql", {"image_counts": [1, 2, 3, 4, 5, -6]}, "not negative"),
        ("eql", {"lambda_": 0.1, "num_images": None}, "num_images"),
        ("eql", {"lambda_": 0.1, "num_images": 10}, "smaller than the 9000 images"),
        ("eql", {"lambda_": -0.1}, "lambda"),
        ("eql", {"max_image_count": -1}, "max_image_count"),
        ("eql", {"threshold_function": "linear"}, "threshold_function must be one of"),
        ("eql", {"prior_probability": 1}, "prior_probability"),
        ("eql", {"link": "probit"}, "link must be one of sigmoid, gumbel, got 'probit'"),
        ("softmax_ce", {"reweighting": -1}, "reweighting"),
        ("softmax_ce", {"reweighting": 1, "instance_counts": None}, "instance_counts"),
        ("softmax_ce", {"reweighting": 1, "objectness": True}, "without the objectness pair"),
        ("softmax_eql", {"gamma": 1.5}, "gamma"),
        ("softmax_eql_v2", {"tau": -1}, "tau"),
        ("eql_v2", {"gamma": 0}, "gamma"),
        ("eql_v2", {"mu": -1}, "mu"),
        ("eql_v2", {"mu": 100}, "mu"),
        ("eql_v2", {"alpha": -1}, "alpha"),
        ("equalized_focal", {"alpha": 2}, "alpha"),
        ("equalized_focal", {"gamma": 0}, "gamma"),
        ("equalized_focal", {"scale": -1}, "scale"),
        ("bags", {"group_bounds": (10, 10)}, "group_bounds must ascend"),
        ("bags", {"others_ratio": -1}, "others_ratio"),
        ("bags", {"instance_counts": None}, "instance_counts"),
        ("federated", {"num_sampled": 0}, "num_sampled"),
        ("federated", {"frequency_power": -1}, "frequency_power"),
        ("class_balanced", {"beta": 1.0}, "beta"),
        ("class_balanced", {"beta": -0.1}, "beta"),
        ("balanced_softmax", {"image_counts": None}, "image_counts"),
        ("balanced_sigmoid", {"num_images": None}, "num_images"),
        ("logit_adjustment", {"tau": -1}, "tau"),
        ("ldam", {"instance_counts": None}, "instance_counts"),
        ("ldam", {"max_margin": -1}, "max_margin"),
        ("ldam", {"scale": 0}, "scale"),
        ("drop_loss", {"max_image_count": -1}, "max_image_count"),
        ("acsl", {"score_threshold": 2}, "score_threshold"),
        ("acsl", {"group_bounds": (10, 10)}, "group_bounds must be two that ascend"),
        ("acsl", {"background_shares": (0.1,)}, "background_shares must be two"),
        ("equilibrium", {"momentum": 1.1}, "momentum"),
        ("fcbl", {"alpha": -1}, "alpha"),
        ("fcbl", {"score_threshold": 2}, "score_threshold"),
        ("fcbl", {"score_threshold": 0}, "score_threshold"),
        *(("pcb", {name: 1.1}, f"{name} must be in") for name in ("alpha", "momentum", "start")),
        ("pcb", {"num_steps": None}, "num_steps"),
        ("ecm", {"background_ratio": 0}, "background_ratio"),
        ("focal", {"alpha": 1.5}, "alpha"),
        ("focal", {"alpha": -1}, "alpha"),
        ("focal", {"gamma": -1}, "gamma"),
        ("seesaw", {"gamma": 1}, "'seesaw' takes no argument 'gamma'; it takes .*p, q"),
        ("sesaw", {}, "unknown loss 'sesaw'; known losses: softmax_ce, "),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_loss(name, K, **{**STATISTICS, **arguments})


def test_losses_need_torch_only():
    """The losses serve people who have no Detectron2."""
    program = (
        "import sys, eql_seesaw.losses\n"
        "roots = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(roots & {'detectron2', 'fvcore', 'lvis', 'cv2', 'pycocotools'}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
