"""The training loop: resume gives the same state; averages, schedule, snapshots and blends."""

import math
import os
import signal
import socket

import numpy as np
import pytest
import torch
from torch import nn

from pisa_models.training import snapshot
from pisa_models.training.blend import blend
from pisa_models.training.loop import Opponent, Options, Trainer, learning_rate
from pisa_models.training.vae import leading


def options(**changes) -> Options:
    values = dict(steps=20, minutes=math.inf, batch=4, size=8, lr=1e-2, seed=7, threads=1, fresh=False)
    return Options(**(values | changes))


def trainer(cache) -> Trainer:
    torch.manual_seed(1)
    return Trainer("toy", nn.Linear(3, 2), options())


def toy_loss(run: Trainer):
    def loss_of(step):
        x = torch.randn(4, 3)
        return (run.model(x) - x[:, :2]).square().mean(), {}

    return loss_of


def test_resume_gives_the_same_state(cache):
    whole = trainer(cache)
    for _ in range(9):
        whole.advance(toy_loss(whole))
    first = trainer(cache)
    for _ in range(4):
        first.advance(toy_loss(first))
    first.save()
    second = trainer(cache)
    second.load()
    for _ in range(5):
        second.advance(toy_loss(second))
    assert second.step == whole.step == 9
    for key in whole.parameters:
        assert torch.equal(second.parameters[key], whole.parameters[key])
        assert torch.equal(second.average[key], whole.average[key])
        assert not torch.equal(first.parameters[key], whole.parameters[key])


def _train_in_parallel(rank: int, folder: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["PISA_CACHE"] = folder
    torch.manual_seed(1)
    run = Trainer("toy", nn.Linear(3, 2), options(steps=6))
    seen = []
    loss_of = toy_loss(run)

    def recorded(step):
        seen.append(step)
        return loss_of(step)

    run.run(recorded, lambda: {"score": 1.0}, every=3)
    torch.save((run.step, seen, {k: p.detach() for k, p in run.parameters.items()}), f"{folder}/rank-{rank}.pt")


def test_two_processes_see_other_batches_and_keep_the_same_weights(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_train_in_parallel, (str(tmp_path), port), nprocs=2)
    (steps, seen, weights), (other_steps, other_seen, other_weights) = (
        torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert steps == other_steps == 6
    assert not set(seen) & set(other_seen)
    assert all(torch.equal(weights[key], other_weights[key]) for key in weights)
    assert len((tmp_path / "logs" / "toy.csv").read_text().splitlines()) == 3


def test_run_writes_curve_and_checkpoint_and_resumes(cache):
    run = trainer(cache)
    run.run(toy_loss(run), lambda: {"check": 1.0}, every=5)
    rows = (cache / "logs" / "toy.csv").read_text().splitlines()
    assert rows[0].startswith("step,seconds,loss") and len(rows) == 5

    def unexpected(step):
        raise AssertionError(step)

    again = trainer(cache)
    again.run(unexpected, lambda: {})  # it has ended
    assert again.step == 20
    torch.manual_seed(1)
    longer, seen = Trainer("toy", nn.Linear(3, 2), options(steps=23)), []
    longer.run(lambda step: (seen.append(step), toy_loss(longer)(step))[1], lambda: {"check": 1.0})
    assert seen == [20, 21, 22]


def test_a_stopped_stage_says_so_and_leaves_a_checkpoint(cache):
    run = trainer(cache)
    loss_of = toy_loss(run)

    def stopped(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_of(step)

    # `make train` must not begin the next stage on half of this one.
    with pytest.raises(SystemExit) as ended:
        run.run(stopped, lambda: {}, every=5)
    assert ended.value.code == 143
    again = trainer(cache)
    again.run(toy_loss(again), lambda: {}, every=5)
    assert again.step == 20
    assert steps_of(cache) == ["5", "10", "15", "20"]


def steps_of(cache) -> list[str]:
    return [line.split(",")[0] for line in (cache / "logs" / "toy.csv").read_text().splitlines()[1:]]


def test_steps_after_the_checkpoint_of_a_killed_process_are_logged_once(cache):
    run = trainer(cache)
    run.run(toy_loss(run), lambda: {}, every=5)
    run.step = 10  # its last checkpoint
    run.save()
    again = trainer(cache)
    again.run(toy_loss(again), lambda: {}, every=4)
    assert steps_of(cache) == ["5", "10", "12", "16", "20"]


def test_a_new_schedule_goes_on_from_where_the_last_one_ended(cache):
    run = trainer(cache)
    run.run(toy_loss(run), lambda: {})
    more = Trainer("toy", nn.Linear(3, 2), options(steps=5, go_on=True))
    more.run(toy_loss(more), lambda: {})
    assert more.step == 25
    assert more.optimizer.state_dict()["state"][0]["step"] == 25  # its moments are kept


def test_a_curve_with_other_columns_begins_a_new_file(cache):
    run = trainer(cache)
    run.run(toy_loss(run), lambda: {"check": 1.0}, every=10)
    longer = Trainer("toy", nn.Linear(3, 2), options(steps=40))
    longer.run(toy_loss(longer), lambda: {"check": 1.0, "other": 2.0}, every=10)
    before, after = (cache / "logs" / f"toy{name}.csv" for name in ("-until-step-30", ""))
    for path, steps in ((before, ["10", "20"]), (after, ["30", "40"])):
        header, *rows = (line.split(",") for line in path.read_text().splitlines())
        assert [row[0] for row in rows] == steps
        assert all(len(row) == len(header) for row in rows)


def test_the_base_of_a_later_stage_is_not_moved(cache):
    run = Trainer("toy", nn.Linear(3, 2), options(), base_of=("later",))
    run.run(toy_loss(run), lambda: {})
    run.path.with_stem("later").write_bytes(b"")
    run.run(toy_loss(run), lambda: {})  # it has ended: nothing moves
    on = Trainer("toy", nn.Linear(3, 2), options(steps=30), base_of=("later",))
    with pytest.raises(SystemExit, match=r"later\.pt rests on toy"):
        on.run(toy_loss(on), lambda: {})


def test_averaged_weights_are_swapped_in_and_out(cache):
    run = trainer(cache)
    for _ in range(5):
        run.advance(toy_loss(run))
    before = run.model.weight.detach().clone()
    with run.averaged():
        assert torch.equal(run.average["weight"], before)
        assert not torch.equal(run.model.weight, before)
    assert torch.equal(run.model.weight, before)


def test_learning_rate_warms_up_and_anneals():
    assert learning_rate(0.0, 0, 1.0) == pytest.approx(0.01)
    assert learning_rate(0.0, 200, 1.0) == pytest.approx(1.0)
    assert learning_rate(1.0, 200, 1.0) == pytest.approx(0.01)
    assert learning_rate(2.0, 200, 1.0) == pytest.approx(0.01)


def test_snapshot_brings_back_the_averages(cache, tmp_path, monkeypatch):
    components = (torch.zeros(48), torch.eye(48)[:, :16], torch.ones(16))
    (cache / "checkpoints").mkdir()
    torch.save(components, cache / "checkpoints" / "components.pt")
    torch.manual_seed(1)
    run = Trainer("pixel", nn.Linear(3, 2), options())
    for _ in range(3):
        run.advance(toy_loss(run))
    run.save()
    path = tmp_path / "snapshot.npz"
    assert snapshot.save(path) == ["pixel"]
    monkeypatch.setenv("PISA_CACHE", str(tmp_path / "elsewhere"))
    assert snapshot.restore(path) == ["pixel"]
    assert snapshot.restore(path) == []  # an existing checkpoint is kept
    again = Trainer("pixel", nn.Linear(3, 2), options())
    again.load()
    assert again.step == 3
    again.advance(toy_loss(again))
    assert again.optimizer.param_groups[0]["lr"] < 0.02 * again.options.lr  # a fresh optimiser warms up again
    again.load()
    for key, value in run.average.items():
        assert torch.allclose(again.parameters[key], value, atol=1e-3)
    restored = torch.load(tmp_path / "elsewhere/checkpoints/components.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(restored, components, strict=True))


def fake_checkpoints(cache, monkeypatch, name: str, seed: int, parts=snapshot.PARTS):
    """Another cache folder with checkpoints of a few random weights; returns the folder of the checkpoints."""
    monkeypatch.setenv("PISA_CACHE", str(cache / name))
    folder = cache / name / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    for part in parts:
        average = {"weight": torch.randn(3)}
        state = (torch.randn(4), torch.randn(4, 2)) if part == "components" else {"step": seed, "average": average}
        torch.save(state, folder / f"{part}.pt")
    return folder


def test_a_snapshot_is_not_replaced_by_one_of_fewer_stages(cache, tmp_path, monkeypatch):
    path = tmp_path / "snapshot.npz"
    folder = fake_checkpoints(cache, monkeypatch, "one", 1)
    assert snapshot.save(path) == list(snapshot.STAGES)
    whole = path.read_bytes()
    (folder / "semantic.pt").unlink()
    with pytest.raises(ValueError, match="has semantic and .* has not"):
        snapshot.save(path)
    fake_checkpoints(cache, monkeypatch, "none", 1, ())
    for target in (path, tmp_path / "other.npz"):
        with pytest.raises(ValueError, match="holds no stage"):
            snapshot.save(target)
    assert path.read_bytes() == whole and not (tmp_path / "other.npz").exists()


def test_a_broken_write_leaves_the_old_file(cache, tmp_path, monkeypatch):
    path = tmp_path / "snapshot.npz"
    folder = fake_checkpoints(cache, monkeypatch, "one", 1)
    snapshot.save(path)
    before = {file: file.read_bytes() for file in (path, folder / "pixel.pt")}

    def break_off(*arguments, **_more):
        file = next(a for a in arguments if hasattr(a, "write") or hasattr(a, "write_bytes"))
        file.write(b"half") if hasattr(file, "write") else file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(snapshot.np, "savez_compressed", break_off)
    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(OSError, match="no space"):
        snapshot.save(path)
    with pytest.raises(OSError, match="no space"):
        blend("pixel", path, 0.5)
    assert {file: file.read_bytes() for file in before} == before
    fake_folder = tmp_path / "empty" / "checkpoints"
    monkeypatch.setenv("PISA_CACHE", str(tmp_path / "empty"))
    with pytest.raises(OSError, match="no space"):
        snapshot.restore(path)
    assert list(fake_folder.iterdir()) == [] and not list(tmp_path.glob("*.partial"))


def test_a_snapshot_is_not_mixed_with_another_training(cache, tmp_path, monkeypatch):
    path = tmp_path / "snapshot.npz"
    fake_checkpoints(cache, monkeypatch, "one", 1)
    snapshot.save(path)
    for kept in snapshot.PARTS:
        folder = fake_checkpoints(cache, monkeypatch, f"foreign-{kept}", 2, (kept,))
        with pytest.raises(ValueError, match=rf"would be mixed with another training's: .*{kept}\.pt\. Move"):
            snapshot.restore(path)
        assert [file.name for file in folder.iterdir()] == [f"{kept}.pt"]
    monkeypatch.setenv("PISA_CACHE", str(tmp_path / "fresh"))
    snapshot.restore(path)
    (tmp_path / "fresh/checkpoints/semantic.pt").unlink()
    assert snapshot.restore(path) == ["semantic"]  # on its own prior
    trained = fake_checkpoints(cache, monkeypatch, "trained", 2)
    before = {file: file.read_bytes() for file in trained.iterdir()}
    assert snapshot.restore(path) == []  # nothing is written, so nothing is mixed
    assert {file: file.read_bytes() for file in trained.iterdir()} == before


def test_signs_of_components_do_not_depend_on_who_computes_them(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 6)) * np.arange(1, 7)
    covariance = np.cov((values - values.mean(1, keepdims=True)).T)  # whose vectors sum to 0, as those of detail do
    found = leading(covariance, 3)[1]
    assert np.allclose(found.sum(0), 0, atol=1e-6)
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (eigh(matrix)[0], -eigh(matrix)[1]))
    assert np.array_equal(leading(covariance, 3)[1], found)


def test_blend_lies_between_a_snapshot_and_what_was_trained_from_it(cache, tmp_path):
    torch.manual_seed(1)
    run = Trainer("pixel", nn.Linear(3, 2), options())
    run.save()
    snapshot.save(tmp_path / "earlier.npz")
    before = {key: value.clone() for key, value in run.average.items()}
    for _ in range(3):
        run.advance(toy_loss(run))
    run.save()
    blend("pixel", tmp_path / "earlier.npz", 0.25)
    again = Trainer("pixel", nn.Linear(3, 2), options())
    again.load()
    assert again.step == 3
    for key, value in again.average.items():
        assert torch.allclose(value, 0.25 * before[key] + 0.75 * run.average[key], atol=1e-3)
        assert torch.equal(value, again.parameters[key])
        assert not torch.equal(value, run.average[key])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        blend("pixel", tmp_path / "earlier.npz", 1.5)
    run.path.replace(run.path.with_name("semantic.pt"))
    with pytest.raises(KeyError):  # the snapshot has no such stage
        blend("semantic", tmp_path / "earlier.npz", 0.25)
    other = Trainer("pixel", nn.Linear(5, 2), options())
    other.save()
    with pytest.raises(ValueError, match=r"Expected \(2, 5\) for weight"):
        blend("pixel", tmp_path / "earlier.npz", 0.25)


def test_the_average_of_a_restored_snapshot_follows_what_is_trained_from_there(cache):
    run = trainer(cache)
    for _ in range(3):
        run.advance(toy_loss(run))
    average = {key: value.clone() for key, value in run.average.items()}
    restored = {"step": 5000, "seconds": 0.0, "parameters": average, "average": average}
    (cache / "checkpoints").mkdir(exist_ok=True)
    torch.save(restored, cache / "checkpoints" / "toy.pt")
    again = trainer(cache)
    again.load()
    for _ in range(40):
        again.advance(toy_loss(again))
    again.save()
    moved = (again.parameters["weight"] - average["weight"]).norm()
    # A decay of 0.998 from the first step on goes less than 0.08 of the way.
    assert (again.average["weight"] - average["weight"]).norm() > 0.5 * moved
    resumed = trainer(cache)
    resumed.load()
    assert resumed.first_step == again.first_step == 5000  # and not forgotten by the run's own checkpoints


def test_an_opponent_trains_beside_the_model_and_resumes_with_it(cache):
    def duel() -> Trainer:
        torch.manual_seed(1)
        opponent = Opponent(nn.Linear(2, 1), 1e-2)
        return Trainer("toy", nn.Linear(3, 2), options(), opponent=opponent)

    def loss_of(run: Trainer):
        def loss(step):
            made, wanted = run.model(torch.randn(4, 3)), torch.randn(4, 2) + 1
            judge = run.opponent.network
            run.opponent.advance((judge(made.detach()) - judge(wanted)).mean() + judge.weight.square().sum())
            return -judge(made).mean(), {}

        return loss

    whole = duel()
    first = whole.opponent.network.weight.detach().clone()
    for _ in range(7):
        whole.advance(loss_of(whole))
    assert not torch.equal(whole.opponent.network.weight, first)
    half = duel()
    for _ in range(3):
        half.advance(loss_of(half))
    half.save()
    resumed = duel()
    resumed.load()
    for _ in range(4):
        resumed.advance(loss_of(resumed))
    for a, b in ((whole.model, resumed.model), (whole.opponent.network, resumed.opponent.network)):
        assert torch.equal(a.weight, b.weight)


@pytest.mark.parametrize("factor", [1e6, math.inf, math.nan])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_bad_batch_is_left_out(cache, factor, steps_before):
    if steps_before == 0 and math.isfinite(factor):
        pytest.skip("nobody knows yet what is usual")
    run = trainer(cache)
    for _ in range(steps_before):
        run.advance(toy_loss(run))
    before = run.model.weight.detach().clone()

    def exploded(step):
        return toy_loss(run)(step)[0] * factor, {}

    skipped = run.skipped
    assert run.advance(exploded)["skipped"] == skipped + 1
    assert torch.equal(run.model.weight, before)
    for _ in range(5):
        run.advance(toy_loss(run))
    assert not torch.equal(run.model.weight, before)
