"""Parameter vectors for tests: of a small basis, random ones."""

import numpy as np

from specs.pave import Basis, ParameterVector

SMALL = Basis(proxy="tiny", sha256="ab" * 32, layers=2, modules=("q_proj",), rank=2)


def random_vector(seed: int = 0, basis: Basis = SMALL) -> ParameterVector:
    generator = np.random.default_rng(seed)
    parts = {
        f"{layer}.{module}": generator.normal(size=(6, basis.rank)).astype(np.float16).astype(np.float32)
        for layer in range(basis.first, basis.layers)
        for module in basis.modules
    }
    return ParameterVector(basis, 20, parts)
