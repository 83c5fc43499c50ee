"""Feature extraction on a GPU with Lightning. On a CPU, `graft.training.features.extraction` does it without torch.

Lightning Fabric moves the module and the batches. Its loop is a generator, so rows stream out batch by batch: `Trainer.predict`
would return only after the last batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from lightning_fabric import Fabric
from pytorch_lightning import LightningModule
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode
from graft.service.inference.cuda import product_precision
from graft.service.inference.devices import Device, available_cpus
from graft.service.networks import network as networks
from graft.service.networks.network import Network
from graft.training.backbones.onnx_cache import ExportedBackbone
from graft.training.data.dataset import Dataset as Images
from graft.training.data.dataset import DatasetError
from graft.training.features.extraction import FLOAT16_MAX, Result, View
from graft.training.runtime.lightning_logs import silence_lightning
from graft.training.runtime.progress import log
from graft.training.runtime.shared_memory import affordable_workers

BATCH_SIZES: dict[Device, int] = {"cuda": 256, "cpu": 16}
# Largest relative error of mixed precision. Heads are learned on these features, but packages are served in float32, and may
# be off by 0.001 of a probability. For the default backbone, an error of 0.018 was measured to move probabilities by up to
# 0.006, so a ninth of it is below that.
MAX_DRIFT = 2**-9
Item = tuple[int, np.ndarray | DatasetError]
Batch = tuple[list[int], Tensor, dict[int, DatasetError]]


class FeatureExtractor(LightningModule):
    """A frozen backbone; `predict_step` returns the features of every stage and the vectors, concatenated.

    Attributes:
        mixed: whether products are computed in float16, if that stays within the range of float16.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.mixed = False

    def predict_step(self, batch: Batch, _: int) -> Batch:
        """Pixels uint8 (N, crop, crop, 3) to features float16 (N, W) on the CPU."""
        indices, pixels, unreadable = batch
        if not indices:  # not every network accepts an empty batch
            return [], torch.zeros(0, 0, dtype=torch.float16), unreadable
        features = self.features(pixels, self.mixed)
        if self.mixed and not torch.isfinite(features).all():
            features = self.features(pixels, mixed=False)
        return indices, features.clamp(-FLOAT16_MAX, FLOAT16_MAX).to(torch.float16).cpu(), unreadable

    @torch.inference_mode()
    def features(self, pixels: Tensor, mixed: bool) -> Tensor:
        """Pixels uint8 (N, crop, crop, 3) to features float32 (N, W), with products in float16 or IEEE float32."""
        with product_precision("f32"), torch.autocast(self.device.type, torch.float16, enabled=mixed):
            return torch.cat(self.network.features(pixels), dim=1)

    def drift(self, pixels: Tensor) -> float:
        """The largest relative error of mixed precision: of a row's stage, or of its vector, in the Euclidean norm.

        Args:
            pixels: uint8 (N, crop, crop, 3).
        """
        info = self.network.backbone_info
        widths = [*info.stages.values(), info.width]
        exact, mixed = (torch.split(self.features(pixels, mixed), widths, dim=1) for mixed in (False, True))
        errors = [(one - other).norm(dim=1) / one.norm(dim=1).clamp(min=1e-12) for one, other in zip(exact, mixed, strict=True)]
        return float(torch.cat(errors).nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def load_with_random_head(exported: ExportedBackbone, n_labels: int = 2) -> Network:
    """The exported backbone as a torch network with a randomly initialized head."""
    network = networks.build(exported.backbone, n_labels, exported.preprocessing)
    head = {key: value for key, value in network.state_dict().items() if key.startswith("head.")}
    network.load_state_dict(load_file(exported.weights) | head, strict=True)
    return network


def extract_on_gpu(dataset: Images, views: list[View], exported: ExportedBackbone, device: Device = "cuda") -> Iterator[Result]:
    """Yields each view with its row, float16 (W,), or with the error of an unreadable image; readable ones in order.

    One loader serves all views, so that the next batches are loaded while the caller uses a row. Its processes end with the
    generator, also after an error.
    """
    silence_lightning()
    fabric = Fabric(accelerator=device, devices=1)
    extractor = FeatureExtractor(load_with_random_head(exported))
    fabric.setup_module(extractor)
    is_chosen = device == "cpu"  # mixed precision brings no speed there
    with _batches(_loader(dataset, views, exported, device)) as batches:
        for number, batch in enumerate(map(fabric.to_device, batches)):
            if not is_chosen and batch[0]:
                choose_precision(extractor, batch[1])
                is_chosen = True
            indices, rows, unreadable = extractor.predict_step(batch, number)
            yield from ((views[index], row) for index, row in zip(indices, rows.numpy(), strict=True))
            yield from ((views[index], error) for index, error in unreadable.items())


def choose_precision(extractor: FeatureExtractor, pixels: Tensor) -> None:
    """Uses mixed precision if it hardly changes the features of these images, and says which precision is used.

    Args:
        pixels: uint8 (N, crop, crop, 3), on the device.
    """
    drift = extractor.drift(pixels)
    extractor.mixed = drift <= MAX_DRIFT
    measured = f"on {len(pixels)} images float16 changes them by {drift:.2g}, relatively; {MAX_DRIFT:.2g} is allowed"
    log(f"features are computed in {'mixed precision' if extractor.mixed else 'float32'}: {measured}")


def planned_workers(device: Device, n_cpus: int) -> int:
    """The number of loader processes: a GPU leaves the cores to them, except for one that feeds it; on a CPU none."""
    return max(1, n_cpus - 1) if device == "cuda" else 0


def _loader(dataset: Images, views: list[View], exported: ExportedBackbone, device: Device) -> DataLoader[Item]:
    batch_size = BATCH_SIZES[device]
    batch_bytes = 3 * exported.preprocessing.crop**2 * batch_size
    return DataLoader(
        _ViewDataset(dataset, views, exported),
        batch_size=batch_size,
        num_workers=affordable_workers(planned_workers(device, available_cpus()), batch_bytes),
        collate_fn=_collate,
        generator=torch.Generator(),  # separate, so that the loader does not advance torch's global random state
        pin_memory=device == "cuda",
    )


@contextmanager
def _batches(loader: DataLoader[Item]) -> Iterator[Iterator[Batch]]:
    """The batches of a loader, whose processes end with the block.

    Otherwise they would live as long as the iterator, which the traceback of an error keeps alive.
    """
    batches = iter(loader)
    try:
        yield batches
    finally:
        with suppress(AttributeError):  # without processes, there is nothing to end
            batches._shutdown_workers()  # type: ignore[attr-defined]


class _ViewDataset(Dataset[Item]):
    """Views as pixels uint8 (crop, crop, 3), or as the error of an unreadable image."""

    def __init__(self, dataset: Images, views: list[View], exported: ExportedBackbone) -> None:
        self._dataset, self._views, self._preprocessing = dataset, views, exported.preprocessing

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> Item:
        view = self._views[index]
        try:
            return index, view.apply(decode(self._dataset.read(view.sample), self._preprocessing).pixels)
        except (ImageError, DatasetError) as error:
            return index, DatasetError(str(error))  # an ImageError cannot be pickled out of a DataLoader worker


def _collate(items: list[Item]) -> Batch:
    readable = {index: pixels for index, pixels in items if not isinstance(pixels, DatasetError)}
    unreadable = {index: error for index, error in items if isinstance(error, DatasetError)}
    batch = np.stack(list(readable.values())) if readable else np.zeros((0, 32, 32, 3), np.uint8)
    return list(readable), torch.from_numpy(batch), unreadable
