"""MDCS (Zhao et al., ICCV 2023): more diverse experts with consistency self-distillation."""
