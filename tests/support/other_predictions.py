"""A trained model with predictions for other validation and test images than those of its run, for tests of packaging."""

import dataclasses

import numpy as np

from graft.service.imaging.preprocess import decode
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.evaluation.predictions import Answered
from graft.training.strategies.trained_model import Trained


def answering(trained: Trained, dataset: Dataset, splits: Splits) -> Trained:
    """Replace the validation and test predictions by those of the network for the given splits."""

    def predict(samples: tuple[Sample, ...]) -> Answered:
        outputs = [trained.network(decode(dataset.read(sample), trained.preprocessing).pixels[None]) for sample in samples]
        logits, vectors = (np.concatenate([getattr(output, name) for output in outputs]) for name in ("logits", "vectors"))
        return Answered(logits, vectors, dataset.targets(samples))

    return dataclasses.replace(trained, validation=predict(splits.validation), test=predict(splits.test))
