"""DeiT-LT (Rangwani et al., CVPR 2024): a vision transformer from scratch whose second token learns from a flat-minimum CNN."""
