"""Segmentation, depth, normals, saliency and distance in turn, on rendered scenes, by one shared set of adapters.

Command:  mtpeft continual scenes_sequence
Result:   (seed 0) mIoU 18.6 % forgets 1.6 points, depth 0.57 m 0.07 m, normals 24.6 degrees 2.6; on average 7.7 % of the value
Duration: about 5 minutes on one core, and the rendering of the scenes on first use
"""

_base_ = "_scenes.py"
method = dict(name="adaptformer", bottleneck_dim=16)
sharing = "shared"
