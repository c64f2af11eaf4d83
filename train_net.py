#!/usr/bin/env python3
"""
Train or evaluate a detector on long-tailed data.

    python train_net.py --config-file configs/quickstart/seesaw.yaml
    python train_net.py --config-file configs/lvis_v1/mask_rcnn_R_50_FPN_2x_seesaw.yaml --num-gpus 8
    torchrun --nproc_per_node 8 train_net.py --config-file ... [KEY VALUE ...]
"""

import sys

from eql_seesaw.engine import (
    LongTailTrainer,
    argument_parser,
    build_checkpointer,
    launch,
    load_config,
    set_up,
    set_up_data,
)


def main(args):
    cfg = set_up(args)
    if args.eval_only:
        model = LongTailTrainer.build_model(cfg)
        build_checkpointer(cfg, model).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return LongTailTrainer.test(cfg, model)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = argument_parser(__doc__).parse_args()
    try:
        # Mistakes in config and data are found here, before processes start or files are written.
        set_up_data(load_config(args.config_file, args.opts))
        launch(main, args)
    except (ValueError, FileNotFoundError) as error:
        # An error in a data loader's worker carries that worker's traceback; its last line says it.
        reason = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        sys.exit(f"error: {reason}")
