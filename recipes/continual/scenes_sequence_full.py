"""Segmentation, depth, normals, saliency and distance in turn, by fine-tuning of the whole pyramid.

Command:  mtpeft continual scenes_sequence_full
"""

_base_ = "_scenes.py"
method = dict(name="full")
sharing = "shared"
training = dict(optimizer=dict(lr=5e-4))
