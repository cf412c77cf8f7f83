"""The Lightning callback, driven by a real Trainer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import infoplane
from infoplane.hooks import every

pl = pytest.importorskip("lightning.pytorch")
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
        self.losses = []
        self.fail_at = None

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        if self.fail_at == self.global_step:
            raise ArithmeticError("diverged")
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def callback(run, **options):
    from infoplane.integrations.lightning import RecorderCallback

    return RecorderCallback((X, Y), run, **{"schedule": every(1), "quiet": True, **options})


def fit(tmp_path, callbacks, module=None, ckpt=None, epochs=3, **options):
    torch.manual_seed(1)
    module = module or Module()
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    options = {"logger": False, **options}
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, loader, DataLoader(TensorDataset(X, Y), batch_size=32), ckpt_path=ckpt)
    return module, trainer


def test_epochs(tmp_path):
    plain, _ = fit(tmp_path, [])
    module, _ = fit(tmp_path, [callback(tmp_path / "a")])
    assert module.losses == plain.losses
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2, 3]
    assert [la.key for la in store.layers] == ["net.0", "net.1", "net.2", "net.4"]
    names = {(s, n) for s, _, n, _, _ in store.metrics()}
    assert {(3, "loss"), (3, "val_loss"), (1, "loss")} <= names
    last = next(v for s, _, n, _, v in store.metrics() if (s, n) == (3, "loss"))
    assert last == pytest.approx(np.mean(module.losses[-4:]), rel=1e-5)
    np.testing.assert_allclose(store.read("net.4", [3])[0], module.eval()(X).detach().numpy(), atol=1e-5)


def test_steps_and_accumulated_gradients(tmp_path):
    fit(tmp_path, [callback(tmp_path / "a", by="step", module="net")], accumulate_grad_batches=2, epochs=2)
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2, 3, 4]
    assert [la.key for la in store.layers] == ["0", "1", "2", "4"]
    assert [store.epoch(s) for s in (1, 2, 3, 4)] == [0.5, 1.0, 1.5, 2.0]


def test_mixed_precision_is_the_trainers(tmp_path):
    fit(tmp_path, [callback(tmp_path / "a")], epochs=1, precision="bf16-mixed")
    assert infoplane.open_run(tmp_path / "a").layer("net.0").dtype == "bfloat16"


def test_an_exception_keeps_what_was_taken(tmp_path):
    module = Module()
    module.fail_at = 6
    recording = callback(tmp_path / "a", schedule=every(2), by="step")
    with pytest.raises(ArithmeticError, match="diverged"):
        fit(tmp_path, [recording], module)
    assert infoplane.open_run(tmp_path / "a").steps() == [0, 2, 4, 6]
    assert not recording.recorder.is_open


def test_a_fit_from_a_checkpoint_resumes(tmp_path):
    _, trainer = fit(tmp_path, [callback(tmp_path / "a")], epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(tmp_path, [callback(tmp_path / "a")], epochs=4, ckpt=tmp_path / "two.ckpt")
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2, 3, 4]
    assert store.session(4) != store.session(1)


def test_a_checkpoint_knows_no_more_than_the_run(tmp_path):
    class Checks(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "now.ckpt")
            seen.append(infoplane.open_run(tmp_path / "a").steps())

    seen = []
    fit(tmp_path, [callback(tmp_path / "a", writer={"seal_seconds": 3600.0}), Checks()], epochs=2)
    assert seen == [[0, 1], [0, 1, 2]]


def test_bad_by():
    with pytest.raises(ValueError, match="by must be 'epoch' or 'step', got 'batch'"):
        callback("a", by="batch")


@pytest.mark.parametrize(("by", "snapshots"), [("epoch", 4), ("step", 13)])
def test_the_size_plan_knows_the_steps(tmp_path, capsys, by, snapshots):
    fit(tmp_path, [callback(tmp_path / "a", by=by, quiet=False)])
    assert f"; {snapshots} snapshots: " in capsys.readouterr().err


def test_figures_go_to_the_loggers_of_the_trainer(tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    figures = {"plane": infoplane.plots.plane}
    recording = callback(tmp_path / "a", sinks=[infoplane.live("kde")], figures=figures)
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path, "tb")]
    fit(tmp_path, [recording], logger=loggers)
    events = EventAccumulator(loggers[1].log_dir)
    events.Reload()
    assert [image.step for image in events.Images("plane")] == [0, 3]
    with pytest.raises(ValueError, match="figures need a logger"):
        fit(tmp_path, [callback(tmp_path / "b", sinks=[infoplane.live("kde")], figures=figures)], logger=loggers[:1])
    with pytest.raises(ValueError, match=r"what one live estimation finds, got 0; pass sinks=\[live"):
        fit(tmp_path, [callback(tmp_path / "c", figures=figures)], logger=loggers)
