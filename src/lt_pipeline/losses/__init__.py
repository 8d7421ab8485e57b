"""Losses of long-tailed recognition: pure functions of logits, with thin modules where constants are kept."""
