"""Files that come from anywhere: what they hold is loaded, what they ask for is not run."""

import os
import pickle
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from eql_seesaw.engine.checkpoint import LongTailCheckpointer
from eql_seesaw.engine.checkpoint_files import CheckpointError, check_pickle, load_weights_only


class Payload:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class ExpressionPayload(Payload):
    """The same, with a built-in function."""

    def __reduce__(self):
        return eval, (f"__import__('os').system({self.command!r})",)


def load(path, size=3):
    model = nn.Linear(size, size)
    checkpointer = LongTailCheckpointer(model, "", classifier={})
    checkpointer.load(str(path), checkpointables=[])
    return model


class TestHarmfulFiles:
    @pytest.mark.parametrize(
        "protocol, payload", [(0, Payload), (2, ExpressionPayload), (5, Payload)]
    )
    def test_pickle(self, tmp_path, protocol, payload):
        path = tmp_path / "R-50.pkl"
        content = {"model": {"weight": payload(f"touch {tmp_path}/ran")}, "__author__": "them"}
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(
            CheckpointError, match=r"R-50.pkl .it asks for \w+[.](system|eval)"
        ) as e:
            load(path)
        assert "\n" not in str(e.value) and os.listdir(tmp_path) == ["R-50.pkl"]

    @pytest.mark.parametrize("suffix, is_zip", [("pth", True), ("pyth", False), ("bin", True)])
    def test_torch(self, tmp_path, suffix, is_zip):
        path = tmp_path / f"model.{suffix}"
        content = {"model_state": {}, "model": Payload(f"touch {tmp_path}/ran")}
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(CheckpointError, match=f"{path} .it asks for posix.system") as e:
            load(path)
        assert "\n" not in str(e.value) and os.listdir(tmp_path) == [path.name]

    def test_pickle_that_is_called_a_checkpoint(self, tmp_path):
        path = tmp_path / "model.pth"
        path.write_bytes(pickle.dumps(Payload(f"touch {tmp_path}/ran"), protocol=2))
        with pytest.raises(CheckpointError, match="cannot read .*model.pth"):
            load(path)
        assert os.listdir(tmp_path) == ["model.pth"]

    def test_torchscript(self, tmp_path):
        path = tmp_path / "model.pth"
        torch.jit.script(nn.Linear(3, 3)).save(path)
        with pytest.raises(CheckpointError, match="model.pth .not a file of weights"):
            load(path)

    def test_the_payload_would_run(self, tmp_path):
        pickle.loads(pickle.dumps(Payload(f"touch {tmp_path}/ran")))
        assert os.listdir(tmp_path) == ["ran"]

    def test_array_of_objects(self, tmp_path):
        array = np.array([Payload(f"touch {tmp_path}/ran")], dtype=object)
        path = tmp_path / "R-50.pkl"
        path.write_bytes(pickle.dumps({"model": {"weight": array}}, protocol=2))
        with pytest.raises(CheckpointError, match="asks for"):
            load(path)
        assert os.listdir(tmp_path) == ["R-50.pkl"]


class TestModelZoo:
    weight = np.arange(9, dtype=np.float32).reshape(3, 3)
    bias = np.ones(3, dtype=np.float32)

    @pytest.mark.parametrize("protocol", [0, 2, 5])
    def test_detectron2s_pickle(self, tmp_path, protocol):
        model = OrderedDict(weight=self.weight, bias=self.bias)
        content = {"model": model, "__author__": "Ä", "matching_heuristics": True}
        path = tmp_path / "R-50.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        assert load(path).weight.equal(torch.from_numpy(self.weight))

    @pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
    def test_numpy_of_both_generations(self, tmp_path, module):
        content = pickle.dumps({"model": {"weight": self.weight, "bias": self.bias}}, protocol=2)
        for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
            content = content.replace(name, module)
        (tmp_path / "R-50.pkl").write_bytes(content)
        check_pickle(str(tmp_path / "R-50.pkl"))

    def test_python_2_strings(self, tmp_path):
        """Keys and the bytes of arrays are str there, which latin1 reads."""
        content = b"(dU\x05model(dU\x04\xe4\xff\x80\x41I1\nsU\x03setc__builtin__\nset\n((lI1\natRs."
        (tmp_path / "R-50.pkl").write_bytes(content)
        check_pickle(str(tmp_path / "R-50.pkl"))

    def test_caffe2(self, tmp_path):
        blobs = {"weight": self.weight, "weight_momentum": self.weight, "lr": np.float64(0.1)}
        path = tmp_path / "R-50.pkl"
        path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL: {}"}, protocol=2))
        check_pickle(str(path))

    def test_pycls(self, tmp_path):
        state = {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}
        torch.save({"epoch": 1, "model_state": state}, tmp_path / "regnet.pyth")
        assert load(tmp_path / "regnet.pyth").weight.equal(state["weight"])

    def test_bare_weights(self, tmp_path):
        torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "model.pth")
        load(tmp_path / "model.pth")

    def test_pickle_of_something_else(self, tmp_path):
        (tmp_path / "R-50.pkl").write_bytes(pickle.dumps([1, 2]))
        with pytest.raises(CheckpointError, match="R-50.pkl holds no weights"):
            load(tmp_path / "R-50.pkl")


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path):
        torch.save({"model": {"weight": torch.arange(300.0)}, "iteration": 3}, tmp_path / "m.pth")
        return tmp_path / "m.pth"

    def test_any_length(self, path):
        content = path.read_bytes()
        for length in {*range(0, len(content), 97), *range(len(content) - 30, len(content))}:
            path.write_bytes(content[:length])
            with pytest.raises(CheckpointError, match="cannot read .*m.pth") as error:
                load_weights_only(str(path))
            assert "\n" not in str(error.value)

    def test_any_flipped_bit(self, path):
        """It is found, or was in bytes that stand for nothing."""
        content = path.read_bytes()
        rng = random.Random(0)
        found = 0
        for position in range(0, len(content), 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                checkpoint = load_weights_only(str(path))
            except CheckpointError as error:
                assert "\n" not in str(error)
                found += 1
            else:
                assert checkpoint["model"]["weight"].equal(torch.arange(300.0))
                assert checkpoint["iteration"] == 3
        assert found > len(content) / 7 / 3

    @pytest.mark.parametrize("content", [[1], {"model": [1]}, torch.zeros(2)])
    def test_something_else(self, path, content):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="m.pth holds no weights of a model"):
            load_weights_only(str(path))
