"""A trained torch network as an engine: it scores images on the device that trained it, before its package exists."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from graft.service.artifact import ArtifactError
from graft.service.fidelity import Precision
from graft.service.inference.cuda import product_precision
from graft.service.inference.devices import Device
from graft.service.inference.engine import Engine, Outputs, Pixels
from graft.service.inference.neighbors import l2_normalize
from graft.service.inference.postprocess import to_probabilities
from graft.service.manifest import Preprocessing
from graft.service.networks.network import Network
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.predictions import Predictions
from graft.training.inference.bulk import predict_dataset

MAX_BATCH = 64
N_CHECKED = 32  # images whose outputs are compared with the CPU engine's
# Of probabilities. As large as the difference that packaging allows between the graph and the trained network.
MAX_DIFFERENCE = 1e-4


class TorchEngine:
    """The network in IEEE f32 on a device. It moves the network there."""

    precision: Precision = "f32"
    streams = 2  # one batch is copied while another one is computed
    max_batch = MAX_BATCH

    def __init__(self, network: Network, device: Device) -> None:
        self.device: Device = device
        self._network = network.to(device).eval()

    def __call__(self, batch: Pixels) -> Outputs:
        """Runs a batch of RGB pixels, uint8 (N, S, S, 3)."""
        with torch.inference_mode():
            logits, vectors = self._network(torch.from_numpy(batch).to(self.device))
            return Outputs(logits.cpu().numpy(), vectors.cpu().numpy())


@contextmanager
def scoring_engine(network: Network, device: Device, cpu_engine: Engine) -> Iterator[Engine]:
    """The engine that scores a trained network: on a GPU the network itself, else the engine that will serve it.

    Args:
        network: on the CPU, where it is at the end again.
        cpu_engine: the exported network.
    """
    if device == "cpu":
        yield cpu_engine
        return
    try:
        with product_precision("f32"):
            yield TorchEngine(network, device)
    finally:
        network.to("cpu")


def check_scores(
    cpu_engine: Engine, predictions: Predictions, samples: Sequence[Sample], dataset: Dataset, preprocessing: Preprocessing
) -> None:
    """Compares predictions of a GPU with those of the engine that will serve the network, for a few images.

    Args:
        predictions: of the samples.

    Raises:
        ArtifactError: if a probability or a vector differs by more than two ways to sum up f32 numbers can explain.
    """
    rows = sorted(range(len(samples)), key=lambda row: samples[row].digest)[:N_CHECKED]
    chosen = [samples[row] for row in rows]
    on_cpu = predict_dataset(cpu_engine, preprocessing, dataset, chosen, "comparing the GPU with the CPU")
    logits, vectors = (predictions.logits[rows], on_cpu.logits), (predictions.vectors[rows], on_cpu.vectors)
    outputs: dict[str, list[NDArray[np.floating]]] = {
        "probabilities": [to_probabilities(one, 1.0, dataset.multilabel) for one in logits],
        "unit vectors": [l2_normalize(one[:]) for one in vectors],
    }
    for what, (on_device, exported) in outputs.items():
        difference = float(np.abs(on_device - exported).max())
        if not difference <= MAX_DIFFERENCE:
            raise ArtifactError(
                f"The GPU gives other {what} than the exported network on the CPU: they differ by {difference:.2g}, and at most"
                f" {MAX_DIFFERENCE:g} is allowed, so its scores would not be those of the package. Use --device cpu, and report"
                " the network and the GPU: this is a bug in Graft, the ONNX exporter or the GPU's driver."
            )
