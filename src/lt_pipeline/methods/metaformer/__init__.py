"""MetaFormer for fine-grained recognition with side information (Diao et al., arXiv 2203.02751); its network is MetaFG."""
