import logging

import pytest

from eql_seesaw.engine.next_steps import log_next_steps
from tests.modeling.tiny_model import tiny_config


@pytest.mark.parametrize("decoupled, offers", [("none", True), ("scale", False)])
def test_another_loss_is_offered_where_it_can_be_trained(tmp_path, caplog, decoupled, offers):
    """The weights that decoupled training starts from hold one loss's classifier."""
    cfg = tiny_config(
        tmp_path, "LongTailROIHeads", "MODEL.ROI_BOX_HEAD.DECOUPLED", decoupled, "DATASETS.TEST", ()
    )
    with caplog.at_level(logging.INFO):
        log_next_steps(cfg)
    assert ("MODEL.ROI_BOX_HEAD.CLS_LOSS" in caplog.text) == offers
    assert "--eval-only --resume" in caplog.text
