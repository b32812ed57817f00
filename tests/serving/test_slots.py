import pytest

from sagehound.serving.slots import Busy, Slots


def test_requests_over_the_limit_are_told_to_come_again() -> None:
    slots = Slots(2)
    with slots.taken("a", 1), slots.taken("a", 1), pytest.raises(Busy, match="2 requests are being answered"):
        slots.check()
    slots.check()


def test_one_of_several_models_leaves_slots_for_the_others() -> None:
    slots = Slots(4)
    with slots.taken("a", 2), slots.taken("a", 2), slots.taken("a", 2):
        with pytest.raises(Busy, match="requests of this model"), slots.taken("a", 2):
            pass
        with slots.taken("b", 2):
            pass


def test_half_of_the_requests_may_have_large_photos() -> None:
    slots = Slots(4)
    with slots.taken("a", 1) as first, slots.taken("a", 1) as third:
        first.slow()
        first.slow()  # its second large photo
        with slots.taken("a", 1) as second:
            second.slow()
            with pytest.raises(Busy, match="2 requests with large photos"):
                third.slow()
        third.slow()
