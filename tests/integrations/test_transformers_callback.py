"""The Hugging Face callback and Accelerate, on small models built from configurations."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import infoplane
from infoplane.hooks import every

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]

G = torch.Generator().manual_seed(0)
IDS = torch.randint(1, 50, (32, 7), generator=G)
LENGTHS = torch.randint(2, 8, (32,), generator=G)
MASK = (torch.arange(7) < LENGTHS[:, None]).long()
LABELS = (IDS[:, 0] > 25).long()


@pytest.fixture(autouse=True)
def no_datasets_library(monkeypatch):
    """Trainer asks for the library datasets, which it then does not use."""
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def test_the_labels_of_a_language_model_are_shifted_as_the_model_does(tmp_path):
    """What the model's own loss compares each position with is the label of that position, -100 left out."""
    from infoplane.integrations.transformers import RecorderCallback

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    own = torch.where(MASK.bool(), IDS, -100)
    labels = infoplane.hooks.next_tokens(own)
    batch = {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        out = model.eval()(**batch, labels=own)
        loss = nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(out.loss, loss)

    recording = RecorderCallback(
        (batch, labels), tmp_path / "gpt2", layers=["transformer.h.*"], reduce="flatten", schedule=3, quiet=True
    )
    rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(IDS, MASK, own, strict=True)]
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"), max_steps=3, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[recording]).train()
    table = infoplane.analyze(tmp_path / "gpt2", "binning", layers="transformer.h.1[token=*]", progress=False)
    counts = {p: int((labels[:, p] >= 0).sum()) for p in range(6)}
    assert {int(k.split("=")[1][:-1]): n for k, n in zip(table.layer, table.n_samples, strict=True)} == counts


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(IDS)

    def __getitem__(self, i):
        return {"input_ids": IDS[i], "attention_mask": MASK[i], "labels": LABELS[i]}


def train(tmp_path, model, callbacks, steps=6, resume=None, **options):
    options = {"save_strategy": "no", "logging_steps": 2, **options}
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"), max_steps=steps, per_device_train_batch_size=8, learning_rate=1e-3, report_to=[],
        use_cpu=True, disable_tqdm=True, seed=1, **options,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def callback(run, **options):
    from infoplane.integrations.transformers import RecorderCallback

    probe = {"input_ids": IDS, "attention_mask": MASK}, LABELS
    options = {"schedule": every(2), "quiet": True, "layers": ["bert.encoder.layer.*.output"], **options}
    return RecorderCallback(probe, run, **options)


def test_training_is_unchanged_and_values_are_the_models(tmp_path):
    plain = bert()
    train(tmp_path, plain, [])
    model = bert()
    train(tmp_path, model, [callback(tmp_path / "a", reduce={"bert.**": "mean"})])
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 2, 4, 6]
    assert [la.key for la in store.layers] == [
        "bert.encoder.layer.0.output",
        "bert.encoder.layer.1.output",
        "classifier",
    ]
    assert store.layer("bert.encoder.layer.1.output").reduction == "mean over tokens"
    assert {"loss", "learning_rate"} <= {n for s, _, n, _, _ in store.metrics() if s == 4}
    with torch.no_grad():
        out = model.eval()(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    hidden = out.hidden_states[-1]
    mean = (hidden * MASK[..., None]).sum(1) / MASK.sum(1, keepdim=True)
    np.testing.assert_allclose(store.read("bert.encoder.layer.1.output", [6])[0], mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(store.read("classifier", [6])[0], out.logits.numpy(), atol=1e-5)


def test_model_outputs_by_name(tmp_path):
    recording = callback(tmp_path / "a", layers=["bert@out.last_hidden_state", "bert@out.pooler_output"], reduce="last")
    with pytest.raises(ValueError, match="no axis of tokens for 'last token'"):
        train(tmp_path, bert(), [recording], steps=2)
    recording = callback(
        tmp_path / "b",
        layers=["bert@out.last_hidden_state", "bert@out.pooler_output"],
        reduce={"bert@out.last_hidden_state": "cls"},
    )
    train(tmp_path, bert(), [recording], steps=2)
    store = infoplane.open_run(tmp_path / "b")
    assert {"bert@out.last_hidden_state", "bert@out.pooler_output", "classifier"} == {la.key for la in store.layers}
    with pytest.raises(ValueError, match=r"the output of layer bert has 2 tensors: .last_hidden_state \(32, 7, 16\)"):
        train(tmp_path, bert(), [callback(tmp_path / "c", layers="bert")], steps=2)


def test_epochs_and_autocast(tmp_path):
    train(tmp_path, bert(), [callback(tmp_path / "a", by="epoch", schedule=every(1))], steps=8, bf16=True)
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2]
    assert store.layer("classifier").dtype == "bfloat16"


def test_a_training_from_a_checkpoint_resumes(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4, "logging_steps": 2}
    train(tmp_path, bert(), [callback(tmp_path / "a")], steps=4, **options)
    train(tmp_path, bert(), [callback(tmp_path / "a")], steps=8, resume=str(tmp_path / "out/checkpoint-4"), **options)
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 2, 4, 6, 8]
    assert store.session(8) != store.session(2)


@pytest.mark.parametrize("mixed", ["no", "bf16"])
def test_accelerate(tmp_path, mixed):
    from infoplane.integrations.accelerate import recorder

    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    results = []
    for record in (False, True):
        accelerate.state.AcceleratorState._reset_state(True)
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=mixed)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        losses = []

        def epochs(after, model=model, optimizer=optimizer, loader=loader, accelerator=accelerator, losses=losses):
            for epoch in range(2):
                for a, b in loader:
                    loss = nn.functional.cross_entropy(model(a), b)
                    optimizer.zero_grad()
                    accelerator.backward(loss)
                    optimizer.step()
                    losses.append(loss.item())
                after(epoch)

        if record:
            with recorder(accelerator, model, (x, y), tmp_path / "a", schedule=every(1), quiet=True) as rec:
                epochs(rec.snapshot)
        else:
            epochs(lambda epoch: None)
        results.append(losses)
    assert results[0] == results[1]
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2]
    assert store.layer("0").dtype == ("float32" if mixed == "no" else "bfloat16")


@pytest.mark.parametrize(("by", "snapshots"), [("step", 4), ("epoch", 3)])
def test_the_size_plan_knows_the_steps(tmp_path, capsys, by, snapshots):
    train(tmp_path, bert(), [callback(tmp_path / "a", by=by, schedule=every(2 if by == "step" else 1), quiet=False)])
    assert f"; {snapshots} snapshots: " in capsys.readouterr().err


class Images:
    def __init__(self):
        self.steps = []

    def add_image(self, tag, image, step, dataformats):
        self.steps.append((tag, step))


def test_figures_go_to_a_writer(tmp_path):
    writer, figures = Images(), {"plane": infoplane.plots.plane}
    options = {"sinks": [infoplane.live("kde")], "reduce": {"bert.**": "mean"}, "figures": figures}
    train(tmp_path, bert(), [callback(tmp_path / "a", loggers=writer, **options)])
    assert writer.steps == [("plane", 0), ("plane", 6)]
    with pytest.raises(ValueError, match="figures need a logger"):
        train(tmp_path, bert(), [callback(tmp_path / "b", **options)])


def test_accelerate_gives_figures_to_its_trackers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from infoplane.integrations.accelerate import recorder

    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    accelerator.init_trackers("tb")
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    model = accelerator.prepare(nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2)))
    options = {"sinks": [infoplane.live("kde")], "figures": {"plane": infoplane.plots.plane}, "total": 1}
    with recorder(accelerator, model, (x, (x[:, 0] > 0).long()), tmp_path / "a", **options) as rec:
        rec.snapshot(1)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [image.step for image in events.Images("plane")] == [0, 1]
