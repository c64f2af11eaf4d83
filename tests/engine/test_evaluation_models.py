"""Which models evaluation gives masks as RLE: only those whose evaluators are ours."""

import pytest
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluators

from eql_seesaw.engine import LongTailTrainer, trainer
from eql_seesaw.evaluation.lvis_evaluator import LongTailLVISEvaluator
from eql_seesaw.evaluation.rle_postprocessing import RLEModel
from tests.modeling.tiny_model import tiny_config


class OwnEvaluator(LongTailLVISEvaluator):
    def __init__(self):
        pass


@pytest.mark.parametrize("evaluator, is_rle", [(OwnEvaluator(), True), (DatasetEvaluators([]), 0)])
def test_masks_are_rle_for_our_evaluators_only(evaluator, is_rle, tmp_path, monkeypatch):
    class Trainer(LongTailTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return evaluator

    evaluated = []
    monkeypatch.setattr(DefaultTrainer, "test", lambda cfg, model, _: evaluated.append(model))
    monkeypatch.setattr(trainer, "show_evaluation", lambda *_: None)
    cfg = tiny_config(tmp_path)
    cfg.defrost()
    cfg.DATASETS.TEST = ("some",)
    Trainer.test(cfg, DefaultTrainer.build_model(cfg))
    (model,) = evaluated
    assert isinstance(model, RLEModel) == bool(is_rle)
