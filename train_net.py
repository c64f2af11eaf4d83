#!/usr/bin/env python3
"""Train or evaluate a detector on long-tailed data: the command line of eql_seesaw/train.py."""

from eql_seesaw.train import main

if __name__ == "__main__":
    main()
