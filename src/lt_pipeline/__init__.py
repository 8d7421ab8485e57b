"""Learning from long-tailed images: published systems as one Kedro project.

Importing the package is cheap on purpose: torch, timm and plotting load inside the modules that need them.
"""

__version__ = "0.1.0"
