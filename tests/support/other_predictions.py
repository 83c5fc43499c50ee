"""A trained model with predictions for other validation and test images than those of its run, for tests of packaging."""

import dataclasses

import numpy as np

from graft.service.imaging.preprocess import decode
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.evaluation.predictions import Predictions
from graft.training.strategies.trained_model import TrainedModel


def with_predictions(trained: TrainedModel, dataset: Dataset, splits: Splits) -> TrainedModel:
    """Replace the validation and test predictions by those of the network for the given splits."""

    def predict(samples: tuple[Sample, ...]) -> Predictions:
        outputs = [trained.network(decode(dataset.read(sample), trained.preprocessing).pixels[None]) for sample in samples]
        logits, vectors = (np.concatenate([getattr(output, name) for output in outputs]) for name in ("logits", "vectors"))
        return Predictions.of(logits, vectors, dataset, samples)

    return dataclasses.replace(trained, validation=predict(splits.validation), test=predict(splits.test))
