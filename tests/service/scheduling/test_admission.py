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
