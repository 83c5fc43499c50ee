"""What was trained, with answers to other held-out images than its run's own, for the tests of what is packaged."""

import dataclasses

import numpy as np

from graft.service.imaging.preprocess import decode
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.evaluation.predictions import Answered
from graft.training.strategies.trained_model import Trained


def answering(trained: Trained, dataset: Dataset, splits: Splits) -> Trained:
    """Asks the network itself, image by image."""

    def asked(samples: tuple[Sample, ...]) -> Answered:
        said = [trained.network(decode(dataset.read(one), trained.preprocessing).pixels[None]) for one in samples]
        logits, vectors = (np.concatenate([getattr(one, name) for one in said]) for name in ("logits", "vectors"))
        return Answered(logits, vectors, dataset.targets(samples))

    return dataclasses.replace(trained, validation=asked(splits.validation), test=asked(splits.test))
