"""--eval-only on one and on two processes: the same bits."""

import dataclasses
import json

import numpy as np
import pytest

from eql_seesaw.evaluation.matches import Matches
from eql_seesaw.evaluation.result import MATCHES, RESULTS, Result
from tests.engine.conftest import ROOT
from tests.ranks import train_net_on_ranks


def assert_same_bits(one, two):
    assert (one / RESULTS).read_bytes() == (two / RESULTS).read_bytes()
    first, second = Result.load(str(one)), Result.load(str(two))
    changed = {"date": "", "folder": ""}
    assert dataclasses.replace(first, **changed) == dataclasses.replace(second, **changed)
    for iou_type in ("bbox", "segm"):
        ours = Matches.load(str(one / MATCHES.format(iou_type)))
        theirs = Matches.load(str(two / MATCHES.format(iou_type)))
        for field in dataclasses.fields(Matches):
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert (one / "per_category.csv").read_bytes() == (two / "per_category.csv").read_bytes()


@pytest.mark.slow
def test_two_ranks_are_one(train_net, overrides, tmp_path):
    config = str(ROOT / "configs" / "quickstart" / "seesaw.yaml")
    assert train_net(config, *overrides) is None
    trained = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    trained += ["TEST.FIXED_AP", "True", "TEST.BOUNDARY_AP", "True"]
    trained += ["TEST.DETECTIONS_PER_IMAGE", "-1"]
    one, two = tmp_path / "1", tmp_path / "2"
    evaluate = ["--eval-only", *overrides, *trained, "OUTPUT_DIR"]
    assert train_net(config, *evaluate, str(one)) is None
    train_net_on_ranks(tmp_path, "--config-file", config, *evaluate, two)
    folders = [output / "inference" / "symbols_val" for output in (one, two)]
    assert_same_bits(*folders)
    assert json.loads((folders[0] / RESULTS).read_text())
    assert "rank 1 evaluated" in (two / "log.txt.rank1").read_text()
