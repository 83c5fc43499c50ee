"""Admission control: the slot limit, and reservations that expire."""

import asyncio

import pytest

from graft.service.errors import Overloaded
from graft.service.scheduling import admission
from graft.service.scheduling.admission import AdmissionControl


def test_slots_are_limited():
    slots = AdmissionControl(2)
    with slots.slot(), slots.slot():
        assert slots.n_admitted == 2
        with pytest.raises(Overloaded) as caught, slots.slot():
            pass
        assert caught.value.limit == "max_waiting"
        assert slots.n_admitted == 2
    assert slots.n_admitted == 0
    slots.check()


def test_slot_is_released_on_error():
    slots = AdmissionControl(1)
    with pytest.raises(KeyError), slots.slot():
        raise KeyError
    assert slots.n_admitted == 0


def test_costly_images_get_a_quarter_of_the_slots():
    slots = AdmissionControl(8)
    with slots.slot(costly=True), slots.slot(costly=True):
        with pytest.raises(Overloaded, match="2 images that take long to decode are already waiting") as caught:
            slots.slot(costly=True).__enter__()
        assert (caught.value.limit, slots.n_admitted) == ("max_waiting", 2)
        with slots.slot():
            assert slots.n_admitted == 3
    with slots.slot(costly=True):
        pass


def test_one_costly_image_is_accepted_by_the_smallest_service():
    slots = AdmissionControl(1)
    with slots.slot(costly=True):
        assert slots.n_admitted == 1


def test_a_costly_image_is_rejected_if_ordinary_ones_hold_every_slot():
    slots = AdmissionControl(4)
    with slots.slot(), slots.slot(), slots.slot(), slots.slot(), pytest.raises(Overloaded, match="4 images"):
        slots.slot(costly=True).__enter__()


def test_reservations_count_as_used_slots():
    async def run() -> None:
        slots = AdmissionControl(2)
        with slots.slot():
            reservation = slots.reserve()
            with pytest.raises(Overloaded, match="1 images are already waiting, and 1 are being uploaded"):
                slots.reserve()
            reservation.release()
            slots.reserve()

    asyncio.run(run())


def test_reservation_is_released_once():
    async def run() -> None:
        slots = AdmissionControl(1)
        reservation = slots.reserve()
        reservation.release()
        reservation.release()
        slots.reserve()
        with pytest.raises(Overloaded):
            slots.reserve()

    asyncio.run(run())


def test_reservation_expires(monkeypatch):
    monkeypatch.setattr(admission, "RESERVATION_S", 0.01)

    async def run() -> None:
        slots = AdmissionControl(1)
        reservation = slots.reserve()
        await asyncio.sleep(0.05)
        slots.reserve()
        reservation.release()  # has expired, so it must not free the other reservation
        with pytest.raises(Overloaded):
            slots.reserve()

    asyncio.run(run())


def test_reservation_does_not_block_an_uploaded_image():
    async def run() -> None:
        slots = AdmissionControl(1)
        slots.reserve()
        with slots.slot():
            assert slots.n_admitted == 1

    asyncio.run(run())
