"""Scores of rules that choose by the adapters' weights alone: Arrow (Ostapenko et al. 2024) and SpectR (Fleshman & Van
Durme 2025).

An adapter changes a linear layer by ΔW = BA = U S Vᵀ. An input h that matters to the adapter lies along its right
singular vectors: Arrow takes |v₁ᵀh|, SpectR ‖S Vᵀh‖ = ‖ΔW h‖. Both route each token in each layer; here their scores
are averaged over some tokens of some of a task's rows and over the layers that an adapter changes, which gives one
learnware a task. Inputs have unit length, so that layers count alike.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.market.rule_inputs import States

_LAYER = re.compile(r"layers\.(\d+)\.\w+\.(\w+)\.lora_A\.weight$")
_INPUT_OF = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}

Spectra = Mapping[tuple[int, str], NDArray[np.float32]]
"""S Vᵀ of each layer that an adapter changes, (rank, features in), by layer number and projection."""


def read_spectra(folder: Path) -> Spectra:
    """Returns the spectra of the adapter in `folder`."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = {name: value.float().numpy() for name, value in load_file(folder / "adapter_model.safetensors").items()}
    found = {}
    for name, a in tensors.items():
        if (layer := _LAYER.search(name)) is not None:
            b = tensors[name.replace(".lora_A.", ".lora_B.")] * (config.get("lora_alpha", config["r"]) / config["r"])
            found[int(layer[1]), layer[2]] = spectrum(b, a)
    return found


def spectrum(b: NDArray[np.float32], a: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns S Vᵀ of the product BA, largest singular value first: (out, r), (r, in) → (r, in). The product itself is
    never formed."""
    left = np.linalg.qr(b, mode="r")
    basis, right = np.linalg.qr(a.T)
    _, values, vectors = np.linalg.svd(left @ right.T)
    return np.asarray(values[:, None] * (vectors @ basis.T), np.float32)


def scores(adapters: Sequence[Spectra], states: States) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns Arrow's and SpectR's score of every adapter for a task with these states."""
    arrow, spectr = np.zeros(len(adapters)), np.zeros(len(adapters))
    for number, spectra in enumerate(adapters):
        for (layer, projection), rows in spectra.items():
            inputs = states[_INPUT_OF.get(projection, projection)][:, :, layer].reshape(-1, rows.shape[1])
            along = inputs.astype(np.float32) @ rows.T
            arrow[number] += np.abs(along[:, 0]).mean() / max(float(np.linalg.norm(rows[0])), 1e-12)
            spectr[number] += np.linalg.norm(along, axis=1).mean()
        arrow[number] /= len(spectra)
        spectr[number] /= len(spectra)
    return arrow, spectr
