"""One module per method prefix: what the project computes for each component of the shared fixtures.

A module has ``COMPONENTS`` (component -> function of parameters and tensors that returns the ``out.*`` tensors by name) and ``NOT_IMPLEMENTED``
(optional component -> reason).
"""

import importlib
import pkgutil
from types import ModuleType

METHODS: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
}
