"""
Every configuration key that this project adds to Detectron2, the reading of config files, and all
checks of values.
"""

import contextlib
import difflib
import importlib.util
import keyword
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from .config_files import find_config_file
from .losses import LOSSES, ClassificationLoss, build_loss
from .schedule import scale_from_reference

# Detectron2's, and our ClassAwareTrainingSampler.
TRAIN_SAMPLERS = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "ClassAwareTrainingSampler",
    "RandomSubsetTrainingSampler",
)
LVIS_ENGINES = ("hotcoco", "lvis")
# Each has the name of the package that it needs.
EVENT_WRITERS = ("tensorboard", "wandb", "mlflow")
# Of mixed precision.
PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# Average precision of an IoU type: of all, at IoU 0.5 and 0.75, by object size, by class frequency.
AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
# Average recall, and expected calibration error.
OTHER_METRICS = ("AR", "ARr", "ARc", "ARf", "ECE", "ECEr", "ECEc", "ECEf")
# Detectron2's meta-architectures without ROI heads of boxes, and one that needs semantic labels.
WITHOUT_OUR_HEADS = ("ProposalNetwork", "RetinaNet", "FCOS", "SemanticSegmentor", "PanopticFPN")
# The calibrations of TEST.CALIBRATION.METHOD, each with the links of the losses that it is defined
# for (see ClassificationLoss), and its paper's strength, where that has one for all models.
CALIBRATIONS: dict[str, tuple[tuple[str, ...], float | None]] = {
    "norcal": (("softmax",), None),
    "logit_adjustment": (("softmax",), 1.0),
    "fracal": (("softmax", "sigmoid"), 2.0),
    "tau_norm": (("softmax",), None),
}
NORMED_CLASSIFIER = {"auto": None, "true": True, "false": False, "none": None}
# Switches of Detectron2: keypoints and proposals from files are not served, losses have CLS_LOSS.
WITHOUT_EFFECT = (
    "MODEL.KEYPOINT_ON",
    "MODEL.LOAD_PROPOSALS",
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE",
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
)
# Values of keys that have a few.
CHOICES: dict[str, Sequence] = {
    "MODEL.ROI_HEADS.NAME": ["LongTailROIHeads", "LongTailCascadeROIHeads", "LongTailRes5ROIHeads"],
    "MODEL.ROI_BOX_HEAD.CLS_LOSS": list(LOSSES),
    "MODEL.ROI_BOX_HEAD.DECOUPLED": ["none", "retrain", "scale", "align"],
    "MODEL.ROI_BOX_CASCADE_HEAD.AVERAGED": ["probabilities", "logits"],
    "DATALOADER.SAMPLER_TRAIN": TRAIN_SAMPLERS,
    "DATALOADER.REPEAT_FREQUENCY": ["image", "instance_aware"],
    "DATALOADER.REPEAT_ROUNDING": ["stochastic", "ceil"],
    "DATALOADER.UNREADABLE_IMAGES": ["stop", "skip"],
    "SOLVER.OPTIMIZER": ["SGD", "AdamW"],
    "SOLVER.AMP.PRECISION": list(PRECISIONS),
    "TEST.LVIS_ENGINE": LVIS_ENGINES,
}
# Lowest values of whole numbers.
LOWEST = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "INPUT.MAX_IMAGE_PIXELS": 1,
    "INPUT.SCALE_JITTER_SIZE": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.ACCUMULATION_STEPS": 1,
    "SOLVER.REFERENCE_IMS_PER_BATCH": 0,
    "SOLVER.MAX_CHECKPOINTS": 0,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "TEST.LVIS_MAX_DETECTIONS": 1,
}
# Keys that need a value of another one, and their own value without it.
CASCADE = ("MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads")
ONLY_WITH = {
    "MODEL.TIMM.NAME": ("", "MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"),
    "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS": ((), *CASCADE),
    "MODEL.ROI_BOX_CASCADE_HEAD.AVERAGED": ("probabilities", *CASCADE),
}


def add_long_tail_config(cfg: CN) -> None:
    """
    Add this project's keys, with their defaults, to a Detectron2 config (in place). One of
    Detectron2's own gets another default, MODEL.ROI_MASK_HEAD.NAME.
    """
    datasets = cfg.DATASETS
    # Own datasets, COCO or LVIS format: {name: {JSON: annotation file, IMAGES: image folder}}.
    datasets.REGISTER = CN(new_allowed=True)
    # JSON of class statistics to use instead of counting the datasets in DATASETS.TRAIN.
    datasets.CLASS_STATISTICS = ""

    # Of MODEL.BACKBONE.NAME build_timm_fpn_backbone, with MODEL.FPN: a model of timm.list_models().
    cfg.MODEL.TIMM = CN({"NAME": ""})
    # Stochastic depth of its last block; the blocks before have less.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0
    # Its batch normalisation, if it has any, stays as MODEL.WEIGHTS gave it.
    cfg.MODEL.TIMM.FREEZE_BN = True

    # Of build_vitdet_backbone; the values are those of ViT-B.
    vit = cfg.MODEL.VIT = CN()
    # Images are padded to squares of so many pixels, and may not be larger.
    vit.IMAGE_SIZE = 1024
    vit.EMBED_DIM = 768
    vit.DEPTH = 12
    vit.NUM_HEADS = 12
    vit.DROP_PATH_RATE = 0.1

    box_head = cfg.MODEL.ROI_BOX_HEAD
    # The classification loss, a name of eql_seesaw.losses.LOSSES.
    box_head.CLS_LOSS = "softmax_ce"
    # L2-normalised classifier: true, false, or auto (None) for the choice of the loss's own paper.
    box_head.NORMED_CLASSIFIER = None
    # Temperature (tau) of the normalised classifier.
    box_head.TEMPERATURE = 20.0

    # retrain: MODEL.WEIGHTS's last classifier layer starts anew, and nothing else trains (cRT).
    # scale: that classifier stays, and one learnable scale per logit is all that trains (LWS).
    # align: it stays, and a scale and a shift per class train, and how far each sample takes them
    # (DisAlign, with SOFTMAX_CE.REWEIGHTING 0.8).
    box_head.DECOUPLED = "none"
    # Write each class's sums of positive and negative gradients, gradient_statistics.json.
    box_head.GRADIENT_STATISTICS = False

    # Each loss reads the node with its own name; a key is the constructor argument in upper case.
    # Separate foreground / background pair of logits (Seesaw paper, table 8).
    box_head.SOFTMAX_CE = CN({"OBJECTNESS": False})
    # Weights of samples, their class's training instances to minus this power.
    box_head.SOFTMAX_CE.REWEIGHTING = 0.0

    # Probability of a logit: sigmoid, or gumbel for that of GOL.
    box_head.SIGMOID_CE = CN({"LINK": "sigmoid"})

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
    eql.LINK = "sigmoid"

    softmax_eql = box_head.SOFTMAX_EQL = CN()
    softmax_eql.MAX_IMAGE_COUNT = 100
    softmax_eql.LAMBDA = None
    # Probability that a protected class is left out of a sample's softmax.
    softmax_eql.GAMMA = 0.95
    # Separate foreground / background pair of logits.
    softmax_eql.OBJECTNESS = False

    softmax_eql_v2 = box_head.SOFTMAX_EQL_V2 = CN()
    # Strength; 0.0 is softmax cross entropy.
    softmax_eql_v2.TAU = 1.0
    softmax_eql_v2.OBJECTNESS = False

    seesaw = box_head.SEESAW = CN()
    # Exponent of the mitigation factor; 0.0 switches it off.
    seesaw.P = 0.8
    # Exponent of the compensation factor; 0.0 switches it off.
    seesaw.Q = 2.0
    # Floor of the own-class probability in the compensation factor.
    seesaw.EPS = 1.0e-2
    # Separate foreground / background pair of logits.
    seesaw.OBJECTNESS = True
    # online: count sampled proposals while training. fixed: use the class statistics.
    seesaw.COUNTS = "online"

    focal = box_head.FOCAL = CN()
    # Weight of the positive terms; that of the negative ones is 1 - ALPHA.
    focal.ALPHA = 0.25
    # Exponent of the modulating factor.
    focal.GAMMA = 2.0

    class_balanced = box_head.CLASS_BALANCED = CN()
    # Weights are (1 - BETA) / (1 - BETA^instances), scaled to an average of 1.
    class_balanced.BETA = 0.999

    bags = box_head.BAGS = CN()
    # Numbers of training instances where one group of classes ends and the next begins.
    bags.GROUP_BOUNDS = (10, 100, 1000)
    # Samples of "others" for each sample of a group's classes (beta of the paper).
    bags.OTHERS_RATIO = 8.0

    eql_v2 = box_head.EQL_V2 = CN()
    # Slope of f, which maps a class's ratio of gradients to its weights.
    eql_v2.GAMMA = 12.0
    # Ratio of positive to negative gradients where f is 1/2.
    eql_v2.MU = 0.8
    # Additional weight of the positive terms where f is 0.
    eql_v2.ALPHA = 4.0

    equalized_focal = box_head.EQUALIZED_FOCAL = CN()
    equalized_focal.ALPHA = 0.25
    # Exponent of a class with as many positive as negative gradients, and what one has more that
    # has negative ones only.
    equalized_focal.GAMMA = 2.0
    equalized_focal.SCALE = 8.0

    federated = box_head.FEDERATED = CN()
    # Classes that take part in a step, those of the batch included.
    federated.NUM_SAMPLED = 50
    # Further classes are drawn in proportion to image counts to this power.
    federated.FREQUENCY_POWER = 0.5

    box_head.BALANCED_SOFTMAX = CN({"OBJECTNESS": False})

    logit_adjustment = box_head.LOGIT_ADJUSTMENT = CN()
    # Strength; 0.0 is softmax cross entropy.
    logit_adjustment.TAU = 1.0
    logit_adjustment.OBJECTNESS = False

    ldam = box_head.LDAM = CN()
    # Margin of the rarest class, as a difference of cosines.
    ldam.MAX_MARGIN = 0.5
    # That of the cosines; None for TEMPERATURE. The paper's code has 30.
    ldam.SCALE = None
    ldam.OBJECTNESS = False

    drop_loss = box_head.DROP_LOSS = CN()
    # Rare classes, as for EQL.
    drop_loss.MAX_IMAGE_COUNT = 100
    drop_loss.LAMBDA = None
    # sigmoid; gumbel makes it GOL.
    drop_loss.LINK = "sigmoid"

    acsl = box_head.ACSL = CN()
    # Probability from which a foreground sample suppresses another class (xi of the paper).
    acsl.SCORE_THRESHOLD = 0.7
    # Most training images of a rare and of a common class.
    acsl.GROUP_BOUNDS = (10, 100)
    # Shares of the background samples that count for rare and for common classes.
    acsl.BACKGROUND_SHARES = (0.01, 0.1)

    ecm = box_head.ECM = CN()
    # Background samples for each sample of a class; another proposal sampler has another one.
    ecm.BACKGROUND_RATIO = 6.3313

    cascade = cfg.MODEL.ROI_BOX_CASCADE_HEAD
    # Weights of the stages' losses, whose gradients all reach the features undivided, as in
    # mmdetection. Empty for Detectron2's: weights of 1, gradients divided by the number of stages.
    cascade.STAGE_LOSS_WEIGHTS = ()
    # What is averaged over the stages at test time: probabilities, or logits as in mmdetection.
    cascade.AVERAGED = "probabilities"

    equilibrium = box_head.EQUILIBRIUM = CN()
    # Share of a class's mean score that one more sample of the class leaves as it was.
    equilibrium.MOMENTUM = 0.99
    equilibrium.OBJECTNESS = False

    fcbl = box_head.FCBL = CN()
    # Strength of the margins between classes.
    fcbl.ALPHA = 0.85
    # Score from which a foreground sample suppresses another class, even if its own has more.
    fcbl.SCORE_THRESHOLD = 0.7

    pcb = box_head.PCB = CN()
    # Strength of the regulariser, and the share of the iterations after which it starts.
    pcb.ALPHA = 0.4
    pcb.START = 2 / 3
    # Share of a class's mean scores that one more step with samples of it leaves as it was.
    pcb.MOMENTUM = 0.99
    pcb.OBJECTNESS = False

    # Detectron2's mask head, computing only the masks that are used.
    cfg.MODEL.ROI_MASK_HEAD.NAME = "OwnClassMaskRCNNConvUpsampleHead"
    # Temperature (tau) of NormedMaskRCNNConvUpsampleHead.
    cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = 20.0
    # Probability from which a pixel belongs to a predicted mask.
    cfg.MODEL.ROI_MASK_HEAD.MASK_THRESH_TEST = 0.5

    # Largest pictures that are read; the default is Pillow's, against files made to fill memory.
    cfg.INPUT.MAX_IMAGE_PIXELS = 178_956_970

    # Large-scale jitter in place of MIN_SIZE_TRAIN: an image is scaled to a square times a random
    # number of this range, such as (0.1, 2.0), and cropped to the square. Empty for none.
    cfg.INPUT.SCALE_JITTER = ()
    # That square, in pixels.
    cfg.INPUT.SCALE_JITTER_SIZE = 1024

    # Of RepeatFactorTrainingSampler: a class's share of images, or its geometric mean with the
    # share of instances (IRFS).
    cfg.DATALOADER.REPEAT_FREQUENCY = "image"
    # Fractions of repeat factors: drawn anew in each epoch, or rounded up, as in mmdetection.
    cfg.DATALOADER.REPEAT_ROUNDING = "stochastic"

    # Stop at a training image or annotation that cannot be read, or skip it: another image takes
    # its place, and skipped_images.csv and the end of the log say which were skipped.
    cfg.DATALOADER.UNREADABLE_IMAGES = "stop"

    # SGD, or AdamW without weight decay of position embeddings.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Of build_vitdet_backbone and AdamW: factor of the learning rate from one block to the one
    # before it, such as 0.7.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # Of SOLVER.AMP.ENABLED: float16, with a scaled loss, on a GPU; or bfloat16, also on a CPU.
    cfg.SOLVER.AMP.PRECISION = "float16"
    # Forward and backward passes per step; each has IMS_PER_BATCH / ACCUMULATION_STEPS images.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Batch that the schedule was written for: with another IMS_PER_BATCH the learning rate is
    # scaled with the batch, and iterations against it. 0 to leave the schedule alone.
    cfg.SOLVER.REFERENCE_IMS_PER_BATCH = 0
    # Keep this many of the newest numbered checkpoints (model_0004999.pth); 0 for all.
    cfg.SOLVER.MAX_CHECKPOINTS = 0
    # Let --resume go on although loss, classes or training set are not those of the checkpoint.
    cfg.SOLVER.RESUME_CHANGED = False

    # Average the weights over the steps; the average is what is evaluated and kept as the model.
    cfg.MODEL_EMA = CN({"ENABLED": False})
    # Share of the average that a step leaves as it was.
    cfg.MODEL_EMA.DECAY = 0.999

    # Where metrics go, beside metrics.json: tensorboard, wandb (Weights & Biases), mlflow.
    cfg.EVENT_WRITERS = ("tensorboard",)

    # Calibration of a trained classifier: none, norcal, logit_adjustment, fracal, tau_norm.
    cfg.TEST.CALIBRATION = CN({"METHOD": "none"})
    # Its gamma, tau, lambda or tau; None for that of the paper. norcal and tau_norm need one, which
    # python -m eql_seesaw.calibrate chooses.
    cfg.TEST.CALIBRATION.STRENGTH = None

    # Detections per image that LVIS evaluation keeps.
    cfg.TEST.LVIS_MAX_DETECTIONS = 300
    # hotcoco, or lvis for the official package: the same numbers, much slower.
    cfg.TEST.LVIS_ENGINE = "hotcoco"
    # Also compute Fixed AP, 10,000 detections of each class without a limit per image, and AP-pool.
    cfg.TEST.FIXED_AP = False
    # Also compute Boundary AP.
    cfg.TEST.BOUNDARY_AP = False
    # Images drawn, ground truth beside predictions, after each evaluation; 0 for none.
    cfg.TEST.NUM_PICTURES = 8
    # Write report/index.html after each evaluation.
    cfg.TEST.REPORT = True
    # Score from which a detection is shown in pictures and report.
    cfg.TEST.PICTURE_SCORE_THRESH = 0.3
    # Metric whose best checkpoint is kept as model_best.pth; empty for none.
    cfg.TEST.BEST_METRIC = ""


class ConfigFile(CN):
    """Detectron2's reader of YAML, which finds a file and its ``_BASE_`` in the package too."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """The content of a file and of its ``_BASE_``, as a dict."""
        return super().load_yaml_with_base(find_config_file(filename), allow_unsafe)


def load_config(config_file: str, overrides: list[str]) -> CN:
    """
    Args:
        config_file: YAML, which may name its ``_BASE_``. It cannot run code. For both,
            ``configs/...`` may be the package's (:func:`~.config_files.find_config_file`).
        overrides: KEY VALUE KEY VALUE ...

    Returns:
        The frozen config; no data is touched. A config for "cuda" (Detectron2's default) on a
        machine without a GPU runs on the CPU. Its schedule is scaled to the batch where
        SOLVER.REFERENCE_IMS_PER_BATCH asks for it.

    Raises:
        ValueError: an unknown key or a wrong value, in one line.
        FileNotFoundError: no such file.
    """
    cfg = scale_from_reference(merge_config(config_file, overrides))
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    validate_config(cfg)
    cfg.freeze()
    return cfg


def merge_config(config_file: str, overrides: list[str]) -> CN:
    """As :func:`load_config`, but the values are not checked, nor the config frozen."""
    cfg = get_cfg()
    add_long_tail_config(cfg)
    if config_file:
        with _one_line_errors(f"config file {config_file}", cfg):
            cfg.merge_from_other_cfg(CN(ConfigFile.load_yaml_with_base(config_file)))
    for option in overrides:
        if option.startswith("--"):
            raise ValueError(f"{option} must stand before the KEY VALUE pairs")
    with _one_line_errors(f"overrides {' '.join(overrides)}", cfg):
        if "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER" in overrides:
            # yacs would hold the key, "auto" or a truth value, to the type that the file gave it.
            cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER = None
        cfg.merge_from_list(overrides)
    return cfg


def loss_arguments(cfg: CN, name: str) -> dict[str, Any]:
    """
    The arguments of a loss, from the node of its name in MODEL.ROI_BOX_HEAD: {"max_image_count":
    100, ...} from EQL. A key that is a Python keyword gets an underscore (LAMBDA: ``lambda_``).
    """
    node = cfg.MODEL.ROI_BOX_HEAD.get(name.upper(), {})
    keys = {key: key.lower() + "_" * keyword.iskeyword(key.lower()) for key in node}
    return {argument: node[key] for key, argument in keys.items()}


def normed_classifier(cfg: CN) -> bool | None:
    """MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER as true, false, or None for the loss's own choice."""
    return NORMED_CLASSIFIER[str(cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER).lower()]


def mixed_precision(cfg: CN) -> torch.dtype | None:
    """The dtype of SOLVER.AMP, None where it is not enabled."""
    return PRECISIONS[cfg.SOLVER.AMP.PRECISION] if cfg.SOLVER.AMP.ENABLED else None


def validate_config(cfg: CN) -> None:
    """
    Check our keys, and Detectron2's where the two meet, without looking at any data.

    Raises:
        ValueError: a value that cannot work, with the key, the value and what is allowed.
    """
    _validate_values(cfg)
    _validate_model(cfg)
    _validate_backbone(cfg)
    _validate_heads(cfg)
    _validate_datasets(cfg)
    _validate_loading(cfg)
    _validate_solver(cfg)
    _validate_calibration(cfg, _validate_loss(cfg))
    validate_test_config(cfg)


def _validate_values(cfg: CN, section: str = "") -> None:
    """The keys of the tables at the top, or those of a section."""
    for key, choices in CHOICES.items():
        if key.startswith(section) and _value(cfg, key) not in choices:
            raise _wrong(cfg, key, f"; it must be one of {', '.join(choices)}")
    for key, lowest in LOWEST.items():
        if key.startswith(section) and _value(cfg, key) < lowest:
            raise _wrong(cfg, key, f"; it must be at least {lowest}")
    for key, (default, other, needed) in ONLY_WITH.items():
        if key.startswith(section) and _value(cfg, key) != default and _value(cfg, other) != needed:
            raise _wrong(
                cfg,
                key,
                f", which has an effect only with {other} {needed}, not with {_value(cfg, other)}; "
                f"leave it at {default!r}",
            )


def _value(cfg: CN, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _wrong(cfg: CN, key: str, reason: str) -> ValueError:
    return ValueError(f"{key} is {_value(cfg, key)!r}{reason}")


def _validate_model(cfg: CN) -> None:
    """Detectron2's choices that our heads, loader or evaluator do not serve."""
    model, augmentation = cfg.MODEL, cfg.TEST.AUG
    if model.META_ARCHITECTURE in WITHOUT_OUR_HEADS:
        raise _wrong(
            cfg,
            "MODEL.META_ARCHITECTURE",
            ", where MODEL.ROI_HEADS has no place or needs other data; use GeneralizedRCNN",
        )
    for key in WITHOUT_EFFECT:
        if _value(cfg, key):
            raise _wrong(cfg, key, ", which has no effect here; leave it at False")
    if model.DEVICE != "cpu" and not re.fullmatch(r"cuda(:\d+)?", model.DEVICE):
        raise _wrong(cfg, "MODEL.DEVICE", "; it must be cuda or cpu")
    if augmentation.ENABLED and model.META_ARCHITECTURE != "GeneralizedRCNN":
        raise ValueError(
            "TEST.AUG.ENABLED is true, which Detectron2 has for MODEL.META_ARCHITECTURE "
            f"GeneralizedRCNN, not for {model.META_ARCHITECTURE}; set it to false"
        )
    if augmentation.ENABLED and not (augmentation.MIN_SIZES and min(augmentation.MIN_SIZES) > 0):
        raise _wrong(cfg, "TEST.AUG.MIN_SIZES", "; name a size at least, all from 1")


def _validate_backbone(cfg: CN) -> None:
    name = cfg.MODEL.BACKBONE.NAME
    # Detectron2's need none of this.
    validate = {
        "build_timm_fpn_backbone": _validate_timm,
        "build_vitdet_backbone": _validate_vit,
    }.get(name)
    if validate is None:
        return
    if importlib.util.find_spec("timm") is None:
        raise ValueError(
            f"MODEL.BACKBONE.NAME {name} needs timm, which is not installed: pip install timm"
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        raise _wrong(
            cfg,
            "MODEL.BACKBONE.FREEZE_AT",
            f", which is of ResNets; set it to 0 for {name}, which trains all its layers",
        )
    validate(cfg)


def _validate_timm(cfg: CN) -> None:
    import timm

    _validate_drop_path(cfg, "MODEL.TIMM.DROP_PATH_RATE")
    model, features = cfg.MODEL.TIMM.NAME, cfg.MODEL.FPN.IN_FEATURES
    try:
        is_known = timm.is_model(model) and timm.models.get_pretrained_cfg(model) is not None
    except RuntimeError:  # a tag, after the dot, that the model does not have
        is_known = False
    if not is_known:
        names = timm.list_pretrained() if "." in model else timm.list_models()
        similar = difflib.get_close_matches(model, names, n=1)
        raise _wrong(
            cfg,
            "MODEL.TIMM.NAME",
            f", which is not a model of timm {timm.__version__}"
            + "".join(f"; did you mean {other}?" for other in similar),
        )
    if not features or not all(re.fullmatch(r"res\d", feature) for feature in features):
        raise _wrong(
            cfg,
            "MODEL.FPN.IN_FEATURES",
            "; name maps by their strides: res2 for 4, res3 for 8, and so on",
        )


def _validate_drop_path(cfg: CN, key: str) -> None:
    if not 0 <= _value(cfg, key) < 1:
        raise _wrong(cfg, key, "; it must be from 0 to less than 1")


def _validate_vit(cfg: CN) -> None:
    vit = cfg.MODEL.VIT
    _validate_drop_path(cfg, "MODEL.VIT.DROP_PATH_RATE")
    if vit.NUM_HEADS < 1 or vit.EMBED_DIM < 1 or vit.EMBED_DIM % vit.NUM_HEADS:
        raise _wrong(
            cfg,
            "MODEL.VIT.EMBED_DIM",
            f"; it must be a positive multiple of MODEL.VIT.NUM_HEADS, {vit.NUM_HEADS}",
        )
    for key, multiple in (("DEPTH", 4), ("IMAGE_SIZE", 32)):
        if vit[key] < 1 or vit[key] % multiple:
            raise _wrong(cfg, f"MODEL.VIT.{key}", f"; it must be a multiple of {multiple}")
    train_size = "SCALE_JITTER_SIZE" if cfg.INPUT.SCALE_JITTER else "MAX_SIZE_TRAIN"
    keys = [f"INPUT.{train_size}", "INPUT.MAX_SIZE_TEST"]
    if cfg.TEST.AUG.ENABLED:
        keys.append("TEST.AUG.MAX_SIZE")
    for key in keys:
        if not 0 < _value(cfg, key) <= vit.IMAGE_SIZE:
            raise _wrong(
                cfg,
                key,
                f"; it must be at most MODEL.VIT.IMAGE_SIZE, {vit.IMAGE_SIZE}, to which images are "
                "padded",
            )


def _validate_datasets(cfg: CN) -> None:
    """Names that are those of folders under OUTPUT_DIR too."""
    for name in (*cfg.DATASETS.REGISTER, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        is_text = isinstance(name, str) and name.isprintable()
        if not is_text or "/" in name or name in ("", ".", ".."):
            raise ValueError(
                f"DATASETS: {name!r} cannot be the name of a dataset, because it is that of a "
                "folder, too; use letters, digits, -, _ and ., and put a number in quotes"
            )
    if "?" in cfg.OUTPUT_DIR:
        raise _wrong(cfg, "OUTPUT_DIR", "; Detectron2 reads no checkpoint below a folder with a ?")


def _validate_heads(cfg: CN) -> None:
    if "Cascade" in cfg.MODEL.ROI_HEADS.NAME:
        _validate_cascade(cfg)
    if str(cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER).lower() not in NORMED_CLASSIFIER:
        raise _wrong(
            cfg, "MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", "; it must be auto, true or false"
        )
    for key in ("MODEL.ROI_BOX_HEAD.TEMPERATURE", "MODEL.ROI_MASK_HEAD.TEMPERATURE"):
        if _value(cfg, key) <= 0:
            raise _wrong(cfg, key, "; it must be positive")
    threshold, mask_head = cfg.MODEL.ROI_MASK_HEAD.MASK_THRESH_TEST, cfg.MODEL.ROI_MASK_HEAD.NAME
    if not 0 < threshold < 1:
        raise _wrong(cfg, "MODEL.ROI_MASK_HEAD.MASK_THRESH_TEST", "; it must be between 0 and 1")
    if threshold != 0.5 and mask_head == "MaskRCNNConvUpsampleHead":
        raise _wrong(
            cfg,
            "MODEL.ROI_MASK_HEAD.MASK_THRESH_TEST",
            f", but {mask_head}, Detectron2's, has no other than 0.5; set "
            "MODEL.ROI_MASK_HEAD.NAME OwnClassMaskRCNNConvUpsampleHead",
        )


def _validate_cascade(cfg: CN) -> None:
    cascade = cfg.MODEL.ROI_BOX_CASCADE_HEAD
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG must be true for {cfg.MODEL.ROI_HEADS.NAME}"
        )
    weights, num_stages = cascade.STAGE_LOSS_WEIGHTS, len(cascade.IOUS)
    are_numbers = all(isinstance(weight, int | float) and weight >= 0 for weight in weights)
    if len(weights) not in (0, num_stages) or not are_numbers:
        raise _wrong(
            cfg,
            "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS",
            f"; it must be empty, or have a number from 0 for each of the {num_stages} stages",
        )
    if cascade.AVERAGED == "logits" and cfg.TEST.CALIBRATION.METHOD == "tau_norm":
        raise ValueError(
            "TEST.CALIBRATION.METHOD is tau_norm, which scales the weights of each stage, but "
            "MODEL.ROI_BOX_CASCADE_HEAD.AVERAGED logits joins the stages before; choose another "
            "method, or set AVERAGED probabilities"
        )


def _validate_loading(cfg: CN) -> None:
    sampler, jitter = cfg.DATALOADER.SAMPLER_TRAIN, cfg.INPUT.SCALE_JITTER
    if sampler == "RepeatFactorTrainingSampler" and cfg.DATALOADER.REPEAT_THRESHOLD <= 0:
        raise _wrong(
            cfg,
            "DATALOADER.REPEAT_THRESHOLD",
            f", with which {sampler} repeats nothing; it must be positive, for LVIS 0.001",
        )
    polygons = cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon"
    for key, is_on in (("CROP.ENABLED", cfg.INPUT.CROP.ENABLED), ("SCALE_JITTER", jitter)):
        if is_on and polygons and importlib.util.find_spec("shapely") is None:
            raise ValueError(
                f"INPUT.{key} cuts polygons with shapely, which is not installed: pip install "
                "shapely, or set INPUT.MASK_FORMAT bitmask"
            )
    if jitter and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1]):
        raise _wrong(cfg, "INPUT.SCALE_JITTER", "; it must be empty or a range, such as (0.1, 2.0)")


def _validate_solver(cfg: CN) -> None:
    solver = cfg.SOLVER
    if solver.IMS_PER_BATCH % solver.ACCUMULATION_STEPS:
        raise _wrong(
            cfg,
            "SOLVER.ACCUMULATION_STEPS",
            f"; it must divide SOLVER.IMS_PER_BATCH, {solver.IMS_PER_BATCH}",
        )
    if not 0 < solver.LAYER_DECAY <= 1:
        raise _wrong(cfg, "SOLVER.LAYER_DECAY", "; it must be above 0 and at most 1")
    is_vit = cfg.MODEL.BACKBONE.NAME == "build_vitdet_backbone"
    if solver.LAYER_DECAY != 1 and not (is_vit and solver.OPTIMIZER == "AdamW"):
        raise _wrong(
            cfg,
            "SOLVER.LAYER_DECAY",
            ", which has an effect only with MODEL.BACKBONE.NAME build_vitdet_backbone and "
            "SOLVER.OPTIMIZER AdamW; leave it at 1.0",
        )
    steps = list(solver.STEPS)
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and (
        steps != sorted(set(steps)) or solver.MAX_ITER in steps
    ):
        raise _wrong(
            cfg,
            "SOLVER.STEPS",
            f"; they must ascend and be less than SOLVER.MAX_ITER, {solver.MAX_ITER}",
        )
    if not 0 <= cfg.MODEL_EMA.DECAY < 1:
        raise _wrong(cfg, "MODEL_EMA.DECAY", "; it must be from 0 to less than 1")
    if not set(cfg.EVENT_WRITERS) <= set(EVENT_WRITERS):
        raise _wrong(cfg, "EVENT_WRITERS", f"; it is a list of some of {', '.join(EVENT_WRITERS)}")
    if mixed_precision(cfg) == torch.float16 and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(
            f"SOLVER.AMP.ENABLED in float16 needs a GPU, but MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; "
            "there set SOLVER.AMP.PRECISION bfloat16"
        )


def _validate_loss(cfg: CN) -> ClassificationLoss:
    name, num_classes = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    try:
        # The values of the loss's own keys do not depend on the statistics.
        ones = torch.ones(num_classes)
        return build_loss(
            name,
            num_classes,
            image_counts=ones,
            instance_counts=ones,
            num_images=num_classes,
            num_steps=1,
            **loss_arguments(cfg, name),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"MODEL.ROI_BOX_HEAD.{name.upper()}: {error}") from None


def _validate_calibration(cfg: CN, loss: ClassificationLoss) -> None:
    method, box_head = cfg.TEST.CALIBRATION.METHOD, cfg.MODEL.ROI_BOX_HEAD
    if method == "none":
        return
    calibration_strength(method, cfg.TEST.CALIBRATION.STRENGTH, loss)
    is_normed = normed_classifier(cfg)
    reason = ""
    if loss.normed_classifier if is_normed is None else is_normed:
        reason = "NORMED_CLASSIFIER normalises the weight vectors already"
    elif box_head.DECOUPLED in ("scale", "align"):
        reason = f"DECOUPLED {box_head.DECOUPLED} has learnt the scale of each weight vector"
    if method == "tau_norm" and reason:
        raise ValueError(
            f"TEST.CALIBRATION.METHOD is tau_norm, but MODEL.ROI_BOX_HEAD.{reason}; choose another "
            "method"
        )


def calibration_strength(method: str, strength: float | None, loss: ClassificationLoss) -> float:
    """
    The strength of a calibration: TEST.CALIBRATION.STRENGTH, or the method's own.

    Raises:
        ValueError: there is no such method, it is not defined for the loss, or the strength is
            missing or no number from 0.
    """
    key = "TEST.CALIBRATION.METHOD"
    if method not in CALIBRATIONS:
        raise ValueError(f"{key} is {method!r}; it must be one of none, {', '.join(CALIBRATIONS)}")
    links, own_strength = CALIBRATIONS[method]
    if loss.link not in links:
        softmax = "one softmax over classes and background, without an objectness pair"
        sigmoid = ", or one sigmoid for each class and none for background"
        raise ValueError(
            f"{key} is {method!r}, which is not defined for {type(loss).__name__} as it is set; it "
            f"is for {softmax}{sigmoid if 'sigmoid' in links else ''}"
        )
    strength = own_strength if strength is None else strength
    if strength is None:
        raise ValueError(
            f"{key} is {method!r}, which has no strength that suits all models: set "
            "TEST.CALIBRATION.STRENGTH; python -m eql_seesaw.calibrate chooses one"
        )
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not strength >= 0:
        raise ValueError(
            f"TEST.CALIBRATION.STRENGTH is {strength!r}; it must be a number from 0, or None"
        )
    return float(strength)


def validate_test_config(cfg: CN) -> None:
    """The keys under TEST alone, as :func:`validate_config` checks them."""
    _validate_values(cfg, "TEST.")
    tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    # Detectron2 puts the dataset's name before the metric where there are several.
    several = len(cfg.DATASETS.TEST) > 1
    prefixes = [f"{name}/" for name in cfg.DATASETS.TEST] if several else [""]
    metrics = [
        f"{prefix}{task}/{name}" for prefix in prefixes for task in tasks for name in AP_METRICS
    ]
    if cfg.TEST.BEST_METRIC not in ("", *metrics):
        raise _wrong(cfg, "TEST.BEST_METRIC", f"; it must be empty or one of {', '.join(metrics)}")


@contextlib.contextmanager
def _one_line_errors(where: str, cfg: CN) -> Iterator[None]:
    """Turn what yaml, yacs and fvcore raise over a config into one line."""
    keys = [key for key, _ in config_items(cfg)]
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: no such file: {error.filename}") from None
    except RecursionError:
        raise ValueError(f"{where}: its _BASE_ leads back to itself") from None
    except (
        AssertionError,
        AttributeError,  # a file that holds no mapping
        KeyError,
        TypeError,
        ValueError,
        yaml.YAMLError,
    ) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        line = f"{where}: {' '.join(str(reason).split())}"
        if "Non-existent" in line:  # yacs, of a key in a file or of an override
            similar = difflib.get_close_matches(line.split()[-1], keys, n=1)
            line += "".join(f"; did you mean {other}?" for other in similar)
        elif re.search("<class 'tuple'> vs. <class '(str|int|float)'>", line):
            line += "; write a list: [1, 2]"
        elif "CfgNode'> vs. " in line:
            line += "; name the keys inside it one by one, such as MODEL.ROI_HEADS.NUM_CLASSES 5"
        raise ValueError(line) from None


def config_items(node: CN, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys as users type them, sections too, with their values."""
    for key, value in node.items():
        yield prefix + key, value
        if isinstance(value, CN):
            yield from config_items(value, f"{prefix}{key}.")
