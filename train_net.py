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
    from eql_seesaw import engine

    setup = engine.set_up(args)
    cfg = setup.cfg
    with engine.hold_output_dir(cfg.OUTPUT_DIR, args.eval_only):
        engine.begin(setup, args)
        if args.eval_only:
            model = engine.LongTailTrainer.build_model(cfg)
            checkpointer = engine.build_checkpointer(cfg, model)
            engine.load_trained(
                checkpointer, cfg.MODEL.WEIGHTS, args.resume, test_classes=setup.test_classes
            )
            return engine.evaluate(setup, model)
        trainer = engine.LongTailTrainer(setup)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
        engine.log_next_steps(cfg)
        return results


if __name__ == "__main__":
    args = argument_parser(__doc__).parse_args()
    with one_line_errors():
        # Not at the top: it takes seconds, for which --help need not wait.
        from eql_seesaw.engine import launch, set_up

        # Mistakes in config and data are found before processes start or files are written.
        launch(main, args, check=set_up)
