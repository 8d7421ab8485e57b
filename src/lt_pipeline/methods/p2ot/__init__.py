"""P2OT (Zhang et al., ICLR 2024) and SP2OT (Zhang et al., 2024): clustering of long-tailed images by progressive partial optimal transport."""
