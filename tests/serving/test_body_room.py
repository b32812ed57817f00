"""The order in which large bodies are read."""

import asyncio

from sagehound.serving.body_room import BodyRoom, Place

MB = 2**20


def test_a_large_body_waits_for_large_ones_but_not_for_small_ones() -> None:
    async def scenario() -> None:
        room = BodyRoom(32 * MB, 8)  # as each of eight processes
        small = [Place() for _ in range(8)]
        for place in small:
            assert room.take(place, MB // 2)
            room.complete(place, MB // 2)
        first, second = Place(), Place()
        assert room.take(first, 25 * MB), "small bodies may be in progress all the time"
        assert not room.take(second, 25 * MB)
        waiting = asyncio.create_task(room.wait(second, 25 * MB))
        room.complete(first, 25 * MB)
        await asyncio.sleep(0)
        assert not waiting.done()
        room.leave(first)
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())
