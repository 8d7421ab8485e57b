"""The plain baselines that every long-tail paper compares with."""
