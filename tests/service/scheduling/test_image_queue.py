"""The queues of images: how many decoders there are."""

import asyncio

import pytest
from api_client import BlockingEngine

from graft.service.inference.model import Model
from graft.service.monitoring.metrics import Metrics
from graft.service.scheduling import image_queue
from graft.service.scheduling.image_queue import InferenceQueue
from graft.service.settings import Settings


@pytest.mark.parametrize(("cores", "streams", "decoders"), [(5, 2, 5), (1, 2, 2), (3, 3, 3)])
def test_there_is_a_decoder_for_each_core_whatever_the_engine(model, monkeypatch, cores, streams, decoders):
    engine = BlockingEngine(model)
    engine.device, engine.streams, engine.max_batch = "cuda", streams, 64
    monkeypatch.setattr(image_queue, "available_cpus", lambda: cores)
    queue = InferenceQueue(Model(model.artifact, engine), Settings(), Metrics())
    try:
        assert len(queue._decoder._ordinary.idle) == len(queue._decoder._costly.idle) == decoders
    finally:
        asyncio.run(queue.close())
