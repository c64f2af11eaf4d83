import multiprocessing
import os
import random
import re
import signal
import time

import pytest
import torch
from torch import nn

from eql_seesaw.engine.checkpoint import CheckpointError, LongTailCheckpointer
from eql_seesaw.engine.checkpoint_files import (
    has_checkpoint,
    last_good_checkpoint,
    load_weights_only,
    newest_checkpoint,
)


def checkpointer(folder, size=10, **settings):
    model = nn.Linear(size, size)
    return LongTailCheckpointer(model, str(folder), classifier={}, **settings)


def save(folder, *iterations, **settings):
    for iteration in iterations:
        checkpointer(folder, **settings).save(f"model_{iteration:07d}", iteration=iteration)


def names(folder):
    return sorted(name for name in os.listdir(folder) if name != "last_checkpoint")


def numbers(folder):
    return [int(name[6:-4]) for name in names(folder) if re.fullmatch(r"model_\d+.pth", name)]


def newest(folder):
    return os.path.basename(newest_checkpoint(str(folder)))


def read_tag(folder):
    path = folder / "last_checkpoint"
    return path.read_text() if path.exists() else ""


def write_tag(folder, name):
    (folder / "last_checkpoint").write_text(name)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


class TestSave:
    def test_name_and_tag(self, tmp_path):
        save(tmp_path, 4)
        assert names(tmp_path) == ["model_0000004.pth"] and read_tag(tmp_path) == names(tmp_path)[0]
        checkpoint = torch.load(tmp_path / "model_0000004.pth", weights_only=True)
        assert checkpoint["iteration"] == 4 and set(checkpoint["model"]) == {"weight", "bias"}

    def test_other_processes_than_the_first_do_not_write(self, tmp_path):
        checkpointer(tmp_path, save_to_disk=False).save("model_0000004")
        assert os.listdir(tmp_path) == []

    def test_best_model_is_not_the_last_checkpoint(self, tmp_path):
        """Resuming from it would take back what was trained since."""
        save(tmp_path, 4)
        checkpointer(tmp_path).save("model_best", iteration=3)
        assert newest(tmp_path) == "model_0000004.pth"

    def test_full_disk_at_every_length(self, small_disk):
        """Torch meets it in the middle of a tensor, or only when it ends the file."""
        save(small_disk, 4, size=100)
        available = os.statvfs(small_disk).f_bavail
        for blocks in range(0, 12):
            (small_disk / "filler").write_bytes(bytes((available - blocks) * 4096))
            with pytest.raises(CheckpointError, match="No space left .* good .*04.pth"):
                save(small_disk, 9, size=100)
            assert newest(small_disk) == "model_0000004.pth"
            if 9 in numbers(small_disk):  # it was last_checkpoint that found no space
                assert load_weights_only(small_disk / "model_0000009.pth")["iteration"] == 9
                break
            assert names(small_disk) == ["filler", "model_0000004.pth"]
        assert blocks > 8

    def test_folder_that_is_gone(self, tmp_path):
        with pytest.raises(CheckpointError, match="No such file .* there is no earlier checkpoint"):
            save(tmp_path / "gone", 4)

    def test_other_errors_are_not_the_disks(self, tmp_path):
        class Broken:
            def state_dict(self):
                return {"lock": multiprocessing.Lock()}

        with pytest.raises(RuntimeError, match="Lock"):
            checkpointer(tmp_path, trainer=Broken()).save("model_final")
        assert os.listdir(tmp_path) == []

    def test_leftovers_of_killed_runs_are_removed(self, tmp_path):
        leftovers = ["model_0000003.pth.77.partial", "last_checkpoint.77.partial"]
        foreign = ["notes.partial", "model.pth.partial", "model.pth"]
        for name in [*leftovers, *foreign]:
            (tmp_path / name).touch()
        save(tmp_path, 4)
        assert set(names(tmp_path)) == {*foreign, "model_0000004.pth"}

    def test_sigkill(self, tmp_path):
        rng = random.Random(0)
        context = multiprocessing.get_context("fork")
        kills_while_writing = 0
        for start in range(0, 8000, 1000):
            process = context.Process(target=_save_forever, args=(tmp_path, start))
            process.start()
            deadline = time.monotonic() + 10
            while read_tag(tmp_path) < f"model_{start:07d}" or not _partial_files(tmp_path):
                assert time.monotonic() < deadline
            time.sleep(rng.random() * 0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills_while_writing += bool(_partial_files(tmp_path))
            tagged = read_tag(tmp_path)
            assert newest(tmp_path) == tagged
            checkpoint = torch.load(tmp_path / tagged, weights_only=True)
            assert checkpoint["iteration"] == int(tagged[6:-4])
            assert checkpoint["model"]["weight"].eq(checkpoint["iteration"]).all()
            # At most one more, of a kill between its name and the tag, and that is whole too.
            for number in numbers(tmp_path):
                torch.load(tmp_path / f"model_{number:07d}.pth", weights_only=True)
        assert kills_while_writing > 2
        save(tmp_path, 10**6)
        assert not _partial_files(tmp_path)


def _save_forever(folder, iteration):
    torch.set_num_threads(1)
    saver = checkpointer(folder, size=300, max_checkpoints=2)
    while True:
        with torch.no_grad():
            saver.model.weight.fill_(iteration)
        saver.save(f"model_{iteration:07d}", iteration=iteration)
        iteration += 1


def _partial_files(folder):
    return [name for name in os.listdir(folder) if name.endswith(".partial")]


class TestFiniteWeights:
    @pytest.mark.parametrize("value", [float("nan"), -float("inf")])
    def test_nothing_is_saved(self, tmp_path, value):
        save(tmp_path, 4)
        saver = checkpointer(tmp_path)
        saver.model.bias.data[3] = value
        with pytest.raises(FloatingPointError, match="in bias; nothing is saved, .*0000004.pth"):
            saver.save("model_0000009", iteration=9)
        assert names(tmp_path) == ["model_0000004.pth"] and newest(tmp_path) == names(tmp_path)[0]

    def test_large_weights_and_empty_ones_are_fine(self, tmp_path):
        saver = checkpointer(tmp_path)
        saver.model.bias.data.fill_(3e38)
        saver.model.register_buffer("small", torch.full((100,), 6e4, dtype=torch.float16))
        saver.model.register_buffer("empty", torch.zeros(0))
        saver.model.register_buffer("count", torch.ones(3, dtype=torch.int64))
        saver.save("model_final")
        assert names(tmp_path) == ["model_final.pth"]


class TestPruning:
    def test_newest_are_kept(self, tmp_path):
        others = [
            "model_best.pth",
            "model_final.pth",
            "model_12_x.pth",
            "other_0000001.pth",
            "x.txt",
        ]
        for name in others:
            (tmp_path / name).touch()
        save(tmp_path, 4, 9, 14, max_checkpoints=2)
        assert numbers(tmp_path) == [9, 14] and set(others) < set(names(tmp_path))

    def test_files_of_before_a_resume_count(self, tmp_path):
        save(tmp_path, 4, 9, 14, 9_999_999, 10_000_000)
        save(tmp_path, 10_000_001, max_checkpoints=3)
        assert numbers(tmp_path) == [10_000_000, 10_000_001, 9_999_999]

    def test_best_and_final_do_not_count(self, tmp_path):
        save(tmp_path, 4, 9)
        for name in ("model_best", "model_final"):
            checkpointer(tmp_path, max_checkpoints=1).save(name, iteration=9)
        assert numbers(tmp_path) == [4, 9]


def cut(length):
    return lambda content: content[: int(length * len(content))]


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


class TestNewest:
    def test_none(self, tmp_path, caplog):
        for folder in (tmp_path, tmp_path / "gone"):
            assert newest(folder) == "" and not has_checkpoint(folder)
            assert last_good_checkpoint(folder) == "there is no earlier checkpoint"
        assert not warnings(caplog)

    def test_tag_decides(self, tmp_path, caplog):
        save(tmp_path, 4, 9)
        write_tag(tmp_path, "model_0000004.pth")
        assert newest(tmp_path) == "model_0000004.pth" and has_checkpoint(tmp_path)
        assert not warnings(caplog)

    @pytest.mark.parametrize(
        "damage",
        [
            *map(cut, (0.3, 0.9999)),
            flip,
            lambda content: b"",
            lambda content: b"hello" * 100,
        ],
    )
    def test_damaged(self, tmp_path, caplog, damage):
        save(tmp_path, 4, 9, size=100)
        path = tmp_path / "model_0000009.pth"
        path.write_bytes(damage(path.read_bytes()))
        assert newest(tmp_path) == "model_0000004.pth"
        (warning,) = warnings(caplog)
        assert re.fullmatch(r"cannot read .*09.pth \(.+\); trying an older checkpoint", warning)

    def test_missing(self, tmp_path, caplog):
        save(tmp_path, 4, 9, 14)
        (tmp_path / "model_0000014.pth").unlink()
        assert newest(tmp_path) == "model_0000009.pth"
        assert "model_0000014.pth (No such file or directory)" in caplog.text

    def test_later_ones_are_of_another_run(self, tmp_path):
        save(tmp_path, 99, 4, 9)
        (tmp_path / "model_0000009.pth").write_bytes(b"")
        assert newest(tmp_path) == "model_0000004.pth"

    def test_tag_is_missing(self, tmp_path):
        save(tmp_path, 4, 14, 9)
        (tmp_path / "last_checkpoint").unlink()
        assert newest(tmp_path) == "model_0000014.pth" and has_checkpoint(tmp_path)
        assert last_good_checkpoint(str(tmp_path)).endswith("model_0000014.pth")

    def test_final_model_is_the_newest(self, tmp_path):
        save(tmp_path, 4, 9)
        checkpointer(tmp_path, trainer=nn.Identity()).save("model_final", iteration=12)
        assert newest(tmp_path) == "model_final.pth"
        (tmp_path / "last_checkpoint").unlink()
        assert newest(tmp_path) == "model_final.pth"

    def test_damaged_final_model(self, tmp_path):
        save(tmp_path, 4, 9)
        checkpointer(tmp_path).save("model_final", iteration=9)
        (tmp_path / "model_final.pth").write_bytes(b"PK\x03\x04")
        assert newest(tmp_path) == "model_0000009.pth"

    def test_best_model_where_there_is_no_other(self, tmp_path):
        """Better than to begin anew."""
        checkpointer(tmp_path, trainer=nn.Identity()).save("model_best", iteration=3)
        assert has_checkpoint(tmp_path) and newest(tmp_path) == "model_best.pth"

    def test_weights_that_are_no_checkpoint_of_a_run(self, tmp_path):
        torch.save({"model": {}}, tmp_path / "model_final.pth")
        with pytest.raises(CheckpointError, match="model_final.pth holds weights alone"):
            newest(tmp_path)
        save(tmp_path, 4)
        (tmp_path / "last_checkpoint").unlink()
        assert newest(tmp_path) == "model_0000004.pth"

    def test_all_damaged(self, tmp_path):
        save(tmp_path, 4, 9)
        for number in (4, 9):
            (tmp_path / f"model_{number:07d}.pth").write_bytes(b"")
        with pytest.raises(CheckpointError, match="no checkpoint .* can be read: .*09.pth") as e:
            newest(tmp_path)
        assert "\n" not in str(e.value)

    def test_tag_without_checkpoints(self, tmp_path):
        write_tag(tmp_path, "model_0000004.pth")
        with pytest.raises(CheckpointError, match="model_0000004.pth .No such file"):
            newest(tmp_path)
