"""Admission control: the slot limit, and reservations that expire."""

import asyncio

import pytest

from graft.service.errors import Overloaded
from graft.service.scheduling import admission
from graft.service.scheduling.admission import Room


def test_slots_are_limited():
    slots = Room(2)
    with slots.place(), slots.place():
        assert slots.inside == 2
        with pytest.raises(Overloaded) as caught, slots.place():
            pass
        assert caught.value.limit == "max_waiting"
        assert slots.inside == 2
    assert slots.inside == 0
    slots.check()


def test_slot_is_released_on_error():
    slots = Room(1)
    with pytest.raises(KeyError), slots.place():
        raise KeyError
    assert slots.inside == 0


def test_reservations_count_as_used_slots():
    async def run() -> None:
        slots = Room(2)
        with slots.place():
            reservation = slots.expect()
            with pytest.raises(Overloaded, match="1 images are already waiting, and 1 are being uploaded"):
                slots.expect()
            reservation.end()
            slots.expect()

    asyncio.run(run())


def test_reservation_is_released_once():
    async def run() -> None:
        slots = Room(1)
        reservation = slots.expect()
        reservation.end()
        reservation.end()
        slots.expect()
        with pytest.raises(Overloaded):
            slots.expect()

    asyncio.run(run())


def test_reservation_expires(monkeypatch):
    monkeypatch.setattr(admission, "ARRIVES_WITHIN_S", 0.01)

    async def run() -> None:
        slots = Room(1)
        reservation = slots.expect()
        await asyncio.sleep(0.05)
        slots.expect()
        reservation.end()  # has expired, so it must not free the other reservation
        with pytest.raises(Overloaded):
            slots.expect()

    asyncio.run(run())


def test_reservation_does_not_block_an_uploaded_image():
    async def run() -> None:
        slots = Room(1)
        slots.expect()
        with slots.place():
            assert slots.inside == 1

    asyncio.run(run())
