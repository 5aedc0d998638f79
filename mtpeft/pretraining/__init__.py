"""Makes the embedded backbones: synthetic data, training, probe and card. Entry point: `tools/pretrain.py`."""
