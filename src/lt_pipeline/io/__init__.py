"""Kedro dataset classes and the configuration loader: what the catalog is made of."""
