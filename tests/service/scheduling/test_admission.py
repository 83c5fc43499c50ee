"""The places for images: never more than there are, and none kept for long for those who do not come."""

import asyncio

import pytest

from graft.service.errors import Overloaded
from graft.service.scheduling import admission
from graft.service.scheduling.admission import Room


def test_so_many_may_be_inside_and_no_more():
    house = Room(2)
    with house.place(), house.place():
        assert house.inside == 2
        with pytest.raises(Overloaded) as refused, house.place():
            pass
        assert refused.value.limit == "max_waiting"
        assert house.inside == 2
    assert house.inside == 0
    house.check()


def test_a_place_is_given_back_by_an_image_that_fails():
    house = Room(1)
    with pytest.raises(KeyError), house.place():
        raise KeyError
    assert house.inside == 0


def test_what_is_expected_counts_like_what_is_inside():
    async def arrive() -> None:
        house = Room(2)
        with house.place():
            arrival = house.expect()
            with pytest.raises(Overloaded, match="1 images are waiting already, and 1 are coming"):
                house.expect()
            arrival.end()
            house.expect()

    asyncio.run(arrive())


def test_an_arrival_ends_once():
    async def arrive() -> None:
        house = Room(1)
        arrival = house.expect()
        arrival.end()
        arrival.end()
        house.expect()
        with pytest.raises(Overloaded):
            house.expect()

    asyncio.run(arrive())


def test_no_place_is_kept_for_who_dawdles(monkeypatch):
    monkeypatch.setattr(admission, "ARRIVES_WITHIN_S", 0.01)

    async def dawdle() -> None:
        house = Room(1)
        arrival = house.expect()
        await asyncio.sleep(0.05)
        house.expect()
        arrival.end()  # late, and no longer its own
        with pytest.raises(Overloaded):
            house.expect()

    asyncio.run(dawdle())


def test_who_is_on_the_way_keeps_nobody_out_who_is_there():
    async def arrive() -> None:
        house = Room(1)
        house.expect()
        with house.place():
            assert house.inside == 1

    asyncio.run(arrive())
