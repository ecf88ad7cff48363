# SPDX-License-Identifier: Apache-2.0
"""What every `Storage` promises. A test class of an implementation inherits this and gives the fixture `storage`.

Only the three methods of the port are used, so that an object store can be held to the same.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from shieldwall.core.errors import InvalidInput, JournalCorrupt, LimitExceeded
from shieldwall.ledger.storage import MAX_OBJECT_BYTES, Storage

NO_PATHS = (
    "",
    "/",
    "/tile/0/000",
    "tile/0/000/",
    "tile//000",
    ".",
    "..",
    "../register",
    "tile/../../register",
    "tile/./0",
    "tile/.hidden",
    "tile/-rf",
    "Tile/0/000",
    "tile/0/000\n",
    "tile/0/00\x000",
    "tile\\0",
    "tile/0/%2e%2e",
    "tile/0/٣",
    "a" * 65,
    "/".join("a" * 17),
    "/".join(["a" * 60] * 5),
)


class StorageContract:
    """Inherit, and give a fixture `storage` that is empty."""

    def test_what_was_written_is_read(self, storage: Storage) -> None:
        files = {"checkpoint": b"one", "tile/0/000": bytes(8192), "tile/0/x001/000.p/3": b"\x00\xff" * 48, "empty": b""}

        storage.write_many(files)

        assert {path: storage.read(path) for path in files} == files

    def test_nothing_is_read_where_nothing_is(self, storage: Storage) -> None:
        """Neither beside what is there, nor above, nor below it."""
        storage.write_many({"tile/0/000": b"x"})

        assert [storage.read(path) for path in ("tile/0/001", "tile/0", "tile", "tile/0/000/1", "no/such/place")] == [
            None
        ] * 5

    def test_the_same_bytes_again_are_no_trouble(self, storage: Storage) -> None:
        """A publisher that was killed starts again with what it had written."""
        storage.write_many({"tile/0/000.p/1": b"x"})

        storage.write_many({"tile/0/000.p/1": b"x", "tile/0/000.p/2": b"y"})

        assert (storage.read("tile/0/000.p/1"), storage.read("tile/0/000.p/2")) == (b"x", b"y")

    def test_other_bytes_are_refused(self, storage: Storage) -> None:
        """What is there stays, and nothing of that batch was written."""
        storage.write_many({"tile/0/000": b"x"})

        with pytest.raises(JournalCorrupt, match="tile/0/000"):
            storage.write_many({"tile/0/001": b"new", "tile/0/000": b"y"})
        assert (storage.read("tile/0/000"), storage.read("tile/0/001")) == (b"x", None)

    def test_a_longer_or_shorter_object_is_other_bytes(self, storage: Storage) -> None:
        storage.write_many({"a": b"xx"})

        for data in (b"", b"x", b"xxx"):
            with pytest.raises(JournalCorrupt):
                storage.write_many({"a": data})
        assert storage.read("a") == b"xx"

    def test_a_large_batch_arrives_whole(self, storage: Storage) -> None:
        files = {f"tile/0/x{number // 1000:03}/{number % 1000:03}": b"%d" % number for number in range(900, 1_200)}

        storage.write_many(files)

        assert all(storage.read(path) == data for path, data in files.items())

    def test_an_empty_batch_does_nothing(self, storage: Storage) -> None:
        storage.write_many({})

    @pytest.mark.parametrize("path", NO_PATHS)
    def test_what_is_no_path_is_refused(self, storage: Storage, path: str) -> None:
        """In every method, before anything is done."""
        with pytest.raises(InvalidInput):
            storage.read(path)
        with pytest.raises(InvalidInput):
            storage.write_many({"fine": b"x", path: b"x"})
        with pytest.raises(InvalidInput):
            storage.compare_and_swap(path, None, b"x")
        assert storage.read("fine") is None

    def test_the_greatest_object_fits_and_a_greater_is_refused(self, storage: Storage) -> None:
        data = bytes(MAX_OBJECT_BYTES)

        storage.write_many({"a": data})

        assert storage.read("a") == data
        with pytest.raises(LimitExceeded):
            storage.write_many({"b": data + b"x"})
        with pytest.raises(LimitExceeded):
            storage.compare_and_swap("c", None, data + b"x")

    def test_a_swap_needs_what_is_there(self, storage: Storage) -> None:
        assert storage.compare_and_swap("register", b"zero", b"one") is False
        assert storage.read("register") is None
        assert storage.compare_and_swap("register", None, b"one") is True
        assert storage.compare_and_swap("register", None, b"other") is False
        assert storage.compare_and_swap("register", b"zero", b"two") is False
        assert storage.read("register") == b"one"
        assert storage.compare_and_swap("register", b"one", b"two") is True
        assert storage.read("register") == b"two"

    def test_empty_is_not_nothing(self, storage: Storage) -> None:
        assert storage.compare_and_swap("deep/register", b"", b"x") is False
        assert storage.compare_and_swap("deep/register", None, b"") is True
        assert storage.compare_and_swap("deep/register", None, b"x") is False
        assert storage.compare_and_swap("deep/register", b"", b"x") is True

    def test_a_swap_may_change_nothing(self, storage: Storage) -> None:
        """So a node that starts can ask whether it is still alone, and what it read is durable."""
        storage.compare_and_swap("register", None, b"one")

        assert storage.compare_and_swap("register", b"one", b"one") is True
        assert storage.read("register") == b"one"

    def test_of_many_who_swap_at_once_one_wins(self, storage: Storage) -> None:
        """Each round, from what all of them read; and the value is the winner's."""
        value: bytes | None = None
        with ThreadPoolExecutor(8) as pool:
            for turn in range(5):
                offers = [b"%d by %d" % (turn, number) for number in range(8)]
                won = list(pool.map(storage.compare_and_swap, ["register"] * 8, [value] * 8, offers))
                assert won.count(True) == 1
                value = offers[won.index(True)]
                assert storage.read("register") == value

    def test_of_many_who_write_different_bytes_one_wins(self, storage: Storage) -> None:
        def write(number: int) -> bool:
            try:
                storage.write_many({"tile/0/000": b"%d" % number})
            except JournalCorrupt:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(write, range(8)))

        assert won.count(True) == 1
        assert storage.read("tile/0/000") == b"%d" % won.index(True)
