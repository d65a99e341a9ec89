import asyncio
from pathlib import Path

from meshbridge.emulator.output import COLLECT_BYTES, OutputCollector, OutputFiles


def write(files: OutputFiles, text: str) -> None:
    async def collect() -> None:
        collector = OutputCollector(files.start(), lambda _text, _position, _last: None)
        collector.write(text.encode(), last=True)
        collector.close()

    asyncio.run(collect())


def test_each_process_moves_the_index_of_the_ones_before_and_the_oldest_goes(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path, "web", 2)
    for text in ("first", "second", "third", "fourth"):
        write(files, text)
    assert [files.read(index, 0, 100) for index in range(files.count)] == [b"fourth", b"third", b"second"]
    assert (files.size(0), files.read(0, 2, 3)) == (6, b"urt")
    files.remove()
    assert not list(tmp_path.iterdir())


def test_pieces_go_out_when_full_when_due_and_at_the_end(tmp_path: Path) -> None:
    pieces: list[tuple[str, int]] = []
    files = OutputFiles(tmp_path, "web", 0)

    async def collect() -> None:
        arrived = asyncio.Event()

        def take(text: str, position: int, _last: bool) -> None:
            pieces.append((text, position))
            arrived.set()

        collector = OutputCollector(files.start(), take)
        collector.write(b"x" * COLLECT_BYTES, last=False)
        arrived.clear()
        collector.write(b"caf\xc3", last=False)
        await asyncio.wait_for(arrived.wait(), 5)
        collector.write(b"\xa9 \xff\xfe", last=False)
        collector.write(b"y" * COLLECT_BYTES, last=True)
        collector.close()
        collector.close()

    asyncio.run(collect())
    assert [(text[:6], len(text), position) for text, position in pieces] == [
        ("xxxxxx", COLLECT_BYTES, 0),
        ("caf�", 4, COLLECT_BYTES),
        ("� ��yy", COLLECT_BYTES + 4, COLLECT_BYTES + 4),
    ]
    assert files.read(0, COLLECT_BYTES, 8) == b"caf\xc3\xa9 \xff\xfe"
