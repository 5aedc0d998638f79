"""Segmentation, depth, normals, saliency and distance in turn, on rendered scenes, by one shared set of adapters.

Command:  mtpeft continual scenes_sequence
"""

_base_ = "_scenes.py"
method = dict(name="adaptformer", bottleneck_dim=16)
sharing = "shared"
