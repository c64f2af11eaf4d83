#!/usr/bin/env python3
"""
Train or evaluate a detector on long-tailed data.

    python train_net.py --config-file configs/quickstart/seesaw.yaml
    python train_net.py --config-file configs/lvis_v1/mask_rcnn_R_50_FPN_2x_seesaw.yaml --num-gpus 8
    torchrun --nproc_per_node 8 train_net.py --config-file ... [KEY VALUE ...]
"""

import argparse

from eql_seesaw.command_line import argument_parser, one_line_errors


def main(args: argparse.Namespace) -> dict | None:
    from eql_seesaw.engine import (
        LongTailTrainer,
        build_checkpointer,
        hold_output_dir,
        log_next_steps,
        set_up,
    )

    with hold_output_dir(args):
        cfg = set_up(args)
        if args.eval_only:
            model = LongTailTrainer.build_model(cfg)
            build_checkpointer(cfg, model).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
            return LongTailTrainer.test(cfg, model)
        trainer = LongTailTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
        log_next_steps(cfg)
        return results


if __name__ == "__main__":
    args = argument_parser(__doc__).parse_args()
    with one_line_errors():
        # Not at the top: it takes seconds, for which --help need not wait.
        from eql_seesaw.engine import check_output_dir, launch, load_config, set_up_data

        # Mistakes in config and data are found here, before processes start or files are written.
        cfg = load_config(args.config_file, args.opts)
        set_up_data(cfg, args.eval_only)
        check_output_dir(cfg, resume=args.resume or args.eval_only)
        launch(main, args)
