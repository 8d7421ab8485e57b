"""MetaFG, the hybrid network of the fine-grained MetaFormer (Diao et al., arXiv 2203.02751). Not timm's MetaFormer (arXiv 2111.11418)."""
