"""AdamW, as vision transformers and ConvNeXt are trained with it."""

import functools

import torch
from detectron2.config import CfgNode
from detectron2.modeling import get_vit_lr_decay_rate
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

# Names of parameters in Detectron2's ViT and timm's models.
POSITION_EMBEDDINGS = ("pos_embed", "absolute_pos_embed", "relative_position_bias_table")


def build_adamw(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """
    AdamW of the keys that Detectron2's SGD has too: SOLVER.BASE_LR, WEIGHT_DECAY, that of
    normalisation layers and biases, CLIP_GRADIENTS. Position embeddings do not decay, and
    SOLVER.LAYER_DECAY lowers the learning rate of a ViT's early blocks.
    """
    solver = cfg.SOLVER
    decay = None
    if solver.LAYER_DECAY != 1:
        decay = functools.partial(
            get_vit_lr_decay_rate,
            lr_decay_rate=solver.LAYER_DECAY,
            num_layers=cfg.MODEL.VIT.DEPTH,
        )
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=decay,
        overrides={name: {"weight_decay": 0.0} for name in POSITION_EMBEDDINGS},
    )
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(params, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
