"""Losses that become NaN or infinite."""

import torch

from .conftest import check_checkpoint, check_error

FILES = r"images \S+\.(png|jpg)"


def test_learning_rate(train_net, overrides, tmp_path):
    extra = ["SOLVER.BASE_LR", "1e12", "SOLVER.WARMUP_ITERS", "5", "SOLVER.WARMUP_FACTOR", "1e-12"]
    extra += ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_ITER", "30", "SOLVER.STEPS", "(25,)"]
    extra += ["SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    error = train_net("quickstart/seesaw.yaml", *overrides, *extra)
    check_error(error, rf"iteration \d+, learning rate \S+: .*{FILES}")
    assert not (tmp_path / "output" / "model_final.pth").exists()
    checkpoints = sorted((tmp_path / "output").glob("model_0*.pth"))
    assert checkpoints
    for index, path in enumerate(checkpoints):
        check_checkpoint(path, index + 1)


def test_pixels(train_net, overrides, tmp_path):
    # As text there is no NaN among yacs' numbers; 1e400 is infinite.
    extra = ["MODEL.PIXEL_MEAN", "(1e400, 1e400, 1e400)"]
    error = train_net("quickstart/seesaw.yaml", *overrides, *extra)
    check_error(error, rf"iteration 0, learning rate \S+: .*{FILES}")
    assert not list((tmp_path / "output").glob("*.pth"))


def test_weights(train_net, overrides, tmp_path):
    assert train_net("quickstart/seesaw.yaml", *overrides, "SOLVER.MAX_ITER", "1") is None
    path = tmp_path / "output" / "model_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    key = next(key for key in checkpoint["model"] if key.startswith("roi_heads.mask_head"))
    checkpoint["model"][key].fill_(float("nan"))
    path = path.replace(tmp_path / "nan.pth")
    torch.save(checkpoint, path)
    second = ["OUTPUT_DIR", str(tmp_path / "second"), "MODEL.WEIGHTS", str(path)]
    error = train_net("quickstart/seesaw.yaml", *overrides, *second)
    losses = r"loss_cls \d\S+, .*loss_mask nan, .*loss_rpn_loc \d\S+"
    check_error(error, rf"iteration 0, learning rate \S+: .*{losses}; {FILES}")
    assert not list((tmp_path / "second").glob("*.pth"))
