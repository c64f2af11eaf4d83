"""Every configuration key that this project adds to Detectron2, and the checks on their values."""

from detectron2.config import CfgNode as CN


def add_long_tail_config(cfg: CN) -> None:
    """Add this project's keys, with their defaults, to a Detectron2 config (in place)."""
    datasets = cfg.DATASETS
    # Own datasets, COCO or LVIS format: {name: {JSON: annotation file, IMAGES: image folder}}.
    datasets.REGISTER = CN(new_allowed=True)
    # JSON of class statistics to use instead of counting the datasets in DATASETS.TRAIN.
    datasets.CLASS_STATISTICS = ""

    box_head = cfg.MODEL.ROI_BOX_HEAD
    # The classification loss, a name of eql_seesaw.losses.LOSSES.
    box_head.CLS_LOSS = "softmax_ce"
    # L2-normalised classifier: true, false, or auto (None) for the choice of the loss's own paper.
    box_head.NORMED_CLASSIFIER = None
    # Temperature (tau) of the normalised classifier.
    box_head.TEMPERATURE = 20.0

    # Each loss reads the node with its own name; a key is the constructor argument in upper case.
    eql = box_head.EQL = CN()
    # Classes with at most this many training images are protected ...
    eql.MAX_IMAGE_COUNT = 100
    # ... unless a frequency is given: then those with images / annotated images < LAMBDA.
    eql.LAMBDA = None
    # E(r) of the paper: background proposals keep weight 1 for every class.
    eql.EXCLUDING_FUNCTION = True
    # T_lambda(f): threshold, exponential or gompertz.
    eql.THRESHOLD_FUNCTION = "threshold"
    # (a, n) of 1 - (a f)^n, used by "exponential".
    eql.EXPONENTIAL = (400.0, 2.0)
    # (a, b, c) of 1 - a exp(-b exp(-c f)), used by "gompertz".
    eql.GOMPERTZ = (1.0, 80.0, 3000.0)
    # Classes in the image's positive or negative set keep weight 1 (paper, section 4.2).
    eql.KEEP_ANNOTATED = False

    softmax_eql = box_head.SOFTMAX_EQL = CN()
    softmax_eql.MAX_IMAGE_COUNT = 100
    softmax_eql.LAMBDA = None
    # Probability that a protected class is left out of a sample's softmax.
    softmax_eql.GAMMA = 0.95

    seesaw = box_head.SEESAW = CN()
    # Exponent of the mitigation factor; 0 switches it off.
    seesaw.P = 0.8
    # Exponent of the compensation factor; 0 switches it off.
    seesaw.Q = 2.0
    # Floor of the own-class probability in the compensation factor.
    seesaw.EPS = 1.0e-2
    # Separate foreground / background pair of logits.
    seesaw.OBJECTNESS = True
    # online: count sampled proposals while training. fixed: use the class statistics.
    seesaw.COUNTS = "online"

    # Temperature (tau) of NormedMaskRCNNConvUpsampleHead.
    cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = 20.0

    # Detections per image that LVIS evaluation keeps.
    cfg.TEST.LVIS_MAX_DETECTIONS = 300
    # Images drawn, ground truth beside predictions, after each evaluation; 0 for none.
    cfg.TEST.NUM_PICTURES = 8
    # Score from which a detection is drawn in those pictures.
    cfg.TEST.PICTURE_SCORE_THRESH = 0.3
    # Metric whose best checkpoint is kept as model_best.pth; empty for none.
    cfg.TEST.BEST_METRIC = ""
