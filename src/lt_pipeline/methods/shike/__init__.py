"""SHIKE (Jin et al., CVPR 2023): experts of different depths that teach each other, then re-balanced classifiers."""
