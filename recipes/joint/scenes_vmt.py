"""Seven tasks of rendered scenes with VMT-Adapter: one pass of the frozen pyramid serves all of them.

Command:  python tools/train.py recipes/joint/scenes_vmt.py
Result:   (seed 0) semseg 24.1 % mIoU, parts 16.4 %, depth 0.554 m, normals 22.0 degrees, saliency 79.0 %, edges 65.1 %,
          distance 0.154; decoders alone on the frozen backbone: 22.9, 15.3, 0.591, 23.6, 76.7, 64.5, 0.160
Duration: 5 minutes on one core, and about 2 minutes to render the scenes on first use
"""

_base_ = "_scenes.py"
method = "vmt_adapter"
