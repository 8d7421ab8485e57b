"""RIDE: routing diverse distribution-aware experts (Wang et al., ICLR 2021, arXiv 2010.01809)."""
