"""The loop all stages share: schedule, averaging, checkpoints, resume and learning curves.

Two single-threaded processes that average their gradients use two cores better than two threads do:

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m pisa_models.training.STAGE --threads 1
"""

import argparse
import csv
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pisa_models.paths import cache_dir

CHECKPOINT_SECONDS = 120
OUTLIER = 3.0  # times the usual gradient norm: a larger gradient is scaled down to this
BROKEN = 100.0  # times the usual gradient norm: such a step is left out
RANK_STRIDE = 10_000_000  # between the batches of two processes: more than any run has steps
HAS_BF16 = torch.cpu._is_avx512_bf16_supported()
LONGEST_STEP_SECONDS = 10.0  # a paused process (SIGSTOP) must not use up its time budget


@dataclass
class Options:
    """What every stage takes from the command line."""

    steps: int
    minutes: float
    batch: int
    size: int
    lr: float
    seed: int
    threads: int
    fresh: bool
    go_on: bool = False
    extra: dict = field(default_factory=dict)


def parse_options(description: str, **defaults) -> Options:
    """Command line of a stage; `defaults` give its tuned values."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=defaults["steps"])
    parser.add_argument("--minutes", type=float, default=math.inf, help="anneal within this time, if it is shorter")
    parser.add_argument("--batch", type=int, default=defaults["batch"])
    parser.add_argument("--size", type=int, default=defaults["size"], help="crop side in pixels")
    parser.add_argument("--lr", type=float, default=defaults["lr"])
    parser.add_argument("--seed", type=int, default=defaults.get("seed", 1))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--fresh", action="store_true", help="ignore an earlier checkpoint of this stage")
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="a new schedule of --steps and --minutes from where an earlier one ended; not to resume it",
    )
    for name, value in defaults.get("extra", {}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    values = vars(parser.parse_args())
    extra = {name: values.pop(name) for name in defaults.get("extra", {})}
    return Options(**values, extra=extra)


def learning_rate(progress: float, step: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up over the optimiser's first steps, then a cosine from `peak` to 1 % of it at progress = 1."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * cosine)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Over all processes, in place; each must have the same parameters in the same order. An absent one is zero."""
    if not dist.is_initialized():
        return
    gradients = []
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients.append(p.grad)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_((total / dist.get_world_size()).view_as(gradient))


class Opponent:
    """A second network with an optimiser of its own that trains against the first and is saved beside it."""

    def __init__(self, network: nn.Module, lr: float):
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr, betas=(0.0, 0.99))

    def advance(self, loss: Tensor) -> None:
        """One optimisation step. Leaves no gradient behind, and none is taken outside of it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.network.parameters())
        if torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters()]).isfinite():
            self.optimizer.step()

    def state(self) -> dict:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class Trainer:
    """Trains the parameters of `model` that require a gradient, and keeps a moving average of them."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        options: Options,
        decay: float = 0.998,
        weight_decay: float = 0.0,
        opponent: Opponent | None = None,
        base_of: tuple[str, ...] = (),
    ):
        """`base_of`: the stages whose checkpoints are worth nothing once this one moves."""
        self.name, self.model, self.options, self.decay, self.opponent = name, model, options, decay, opponent
        self.base_of = base_of
        self.parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=options.lr, betas=(0.9, 0.99), weight_decay=weight_decay
        )
        self.average = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.step, self.seconds, self.stopping, self.asked_to_stop = 0, 0.0, False, False
        # Of schedule, warm-up and average, which know nothing of the steps before a restored snapshot.
        self.first_step = 0
        self.rank, self.processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.processes > 1:
            dist.init_process_group("gloo")
        self.usual_norm, self.skipped = 0.0, 0
        self.path = cache_dir("checkpoints") / f"{name}.pt"
        self.curve = cache_dir("logs") / f"{name}.csv"

    def state(self) -> dict:
        return {
            "step": self.step,
            "first_step": self.first_step,
            "seconds": self.seconds,
            "usual_norm": self.usual_norm,
            "parameters": {k: p.detach() for k, p in self.parameters.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        } | ({"opponent": self.opponent.state()} if self.opponent else {})

    def save(self) -> None:
        """Write the checkpoint in one move, so that a kill leaves the old or the new one."""
        partial = self.path.with_suffix(".partial")
        torch.save(self.state(), partial)
        partial.replace(self.path)

    def load(self, path: Path | None = None) -> None:
        state = torch.load(path or self.path, weights_only=True)
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                parameter.copy_(state["parameters"][key])
                self.average[key].copy_(state["average"][key])
        if "optimizer" in state:  # a restored snapshot has none
            self.optimizer.load_state_dict(state["optimizer"])
            self.first_step = state.get("first_step", 0)
        else:
            self.first_step = state["step"]
        if self.opponent and "opponent" in state:
            self.opponent.load(state["opponent"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.usual_norm = state.get("usual_norm", 0.0)

    def progress(self) -> float:
        """Through the schedule: 0 at its first step, 1 where it ends."""
        taken = self.step - self.first_step
        return max(taken / self.options.steps, self.seconds / 60 / self.options.minutes)

    def advance(self, loss_of: Callable[[int], tuple[Tensor, dict[str, float]]]) -> dict[str, float]:
        """One optimisation step; `loss_of(step)` gives the loss and what to log."""
        started = time.monotonic()
        index = self.step + self.rank * RANK_STRIDE
        torch.manual_seed(self.options.seed * 1_000_003 + index)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.progress(), self.step - self.first_step, self.options.lr)
        loss, logged = loss_of(index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.parameters.values())
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values()])
        finite = bool(norm.isfinite())
        if finite:
            self.usual_norm = self.usual_norm or norm.item()
        if finite and norm <= BROKEN * self.usual_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), OUTLIER * self.usual_norm, norm)
            self.optimizer.step()
        else:  # one bad batch must not throw a network without normalisation off for good
            self.skipped += 1
        if finite:
            self.usual_norm = 0.98 * self.usual_norm + 0.02 * min(norm.item(), OUTLIER * self.usual_norm)
        # As short as the run at first: the average of a restored snapshot would otherwise be half the snapshot still
        # after 350 steps, however much they gained.
        taken = self.step - self.first_step
        decay = min(self.decay, (1 + taken) / (10 + taken))
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                self.average[key].lerp_(parameter, 1 - decay)
        self.step += 1
        self.seconds += min(time.monotonic() - started, LONGEST_STEP_SECONDS)
        self._agree()
        return {
            "loss": loss.item(),
            "grad": norm.item(),
            "lr": self.optimizer.param_groups[0]["lr"],
            **logged,
            "skipped": float(self.skipped),
        }

    def _agree(self) -> None:
        """On the time used and on stopping: all processes must leave the loop at the same step."""
        if self.processes == 1:
            self.stopping = self.asked_to_stop
            return
        state = torch.tensor([self.seconds, float(self.asked_to_stop)], dtype=torch.float64)
        dist.all_reduce(state)
        self.seconds, self.stopping = state[0].item() / self.processes, state[1].item() > 0

    def averaged(self):
        """Context in which the model has its averaged weights."""
        return _Swapped(self.parameters, self.average)

    def run(self, loss_of, validate: Callable[[], dict[str, float]], every: int = 200) -> None:
        """Train to the end, resuming an earlier checkpoint unless `--fresh`.

        Raises SystemExit, with what to do, before the base of a later stage's checkpoint would be moved; and after
        SIGTERM, with the code of a process that it ended: the next stage must not begin on half of this one.
        """
        if self.path.exists() and not self.options.fresh:
            self.load()
            if self.options.go_on:
                self.first_step, self.seconds = self.step, 0.0
            print(f"resumed at step {self.step}", flush=True)
            if self.rank == 0:
                self._forget_rows_after(self.step)
        elif self.rank == 0 and self.curve.exists():
            self.curve.unlink()
        later = [path for stage in self.base_of if (path := self.path.with_stem(stage)).exists()]
        if later and self.progress() < 1:
            files = " and ".join(map(str, later))
            raise SystemExit(f"{files} rests on {self.name}. Train that on instead, or move it away to begin anew.")
        first = self.rank == 0  # the one that checks, logs and saves
        saved, sums, count = time.monotonic(), {}, 0
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        while self.progress() < 1 and not self.stopping:
            for key, value in self.advance(loss_of).items():
                sums[key] = sums.get(key, 0.0) + value
            count += 1
            ended = self.progress() >= 1
            if first and (self.step % every == 0 or ended):
                with self.averaged(), torch.no_grad():
                    checked = validate()
                row = {"step": self.step, "seconds": round(self.seconds)}
                row |= {k: float(f"{v:.5g}") for k, v in ({k: v / count for k, v in sums.items()} | checked).items()}
                self._log(row)
                sums, count = {}, 0
            if first and (time.monotonic() - saved > CHECKPOINT_SECONDS or ended or self.stopping):
                self.save()
                saved = time.monotonic()
        if self.stopping and self.progress() < 1:
            raise SystemExit(128 + signal.SIGTERM)

    def _stop(self) -> None:
        self.asked_to_stop = True  # SIGTERM: end after this step, with a checkpoint

    def _forget_rows_after(self, step: int) -> None:
        """A killed process has logged steps after its last checkpoint, which are taken once more."""
        if not self.curve.exists():
            return
        header, *rows = self.curve.read_text().splitlines(keepends=True)
        kept = [row for row in rows if int(row.split(",", 1)[0]) <= step]
        if len(kept) < len(rows):
            self.curve.write_text("".join([header, *kept]))

    def _log(self, row: dict) -> None:
        """To the screen, and to the curve: a new file for a row of other columns, the old one moved aside."""
        print(" ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        header = ",".join(row)
        if self.curve.exists() and self.curve.read_text().splitlines()[0] != header:
            self.curve.replace(self.curve.with_stem(f"{self.name}-until-step-{row['step']}"))
        fresh = not self.curve.exists()
        with open(self.curve, "a", newline="") as handle:
            writer = csv.writer(handle)
            if fresh:
                writer.writerow(row.keys())
            writer.writerow(row.values())


class _Swapped:
    def __init__(self, parameters: dict[str, nn.Parameter], other: dict[str, Tensor]):
        self.parameters, self.other = parameters, other

    def _swap(self) -> None:
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                kept = parameter.detach().clone()
                parameter.copy_(self.other[key])
                self.other[key].copy_(kept)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_) -> None:
        self._swap()


def bf16():
    """bfloat16 for convolutions and matrix products, where the CPU has it: about 2.5 × the speed of float32.

    Elsewhere it is emulated, ten times slower than float32, which is used instead.
    """
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=HAS_BF16)
