"""Segmentation, depth, normals, saliency and distance in turn, by adapters of each task's own: nothing is forgotten.

Command:  mtpeft continual scenes_sequence_adapters
"""

_base_ = "scenes_sequence.py"
sharing = "per_task"
