"""
An example of the losses without detection: long-tailed image classification.

Needs torch and torchvision, not Detectron2; scikit-learn for the digits.
"""
