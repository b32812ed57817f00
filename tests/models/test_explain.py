"""Heat maps: where a planted clue is, and that other weights give another map (Adebayo et al. 2018)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Compose
from PIL import Image
from torch import Tensor

import sagehound
from sagehound.models.classifier import Classifier
from sagehound.models.explain import heat_maps


def photo_with_a_clue(row: int, column: int, size: int = 96) -> Tensor:
    """Grey with a bright square in one of 3 x 3 places, uint8, 1 x 3 x size x size."""
    photo = torch.full((1, 3, size, size), 60, dtype=torch.uint8)
    third = size // 3
    photo[:, :, row * third : (row + 1) * third, column * third : (column + 1) * third] = 250
    return photo


class Bright(torch.nn.Module):
    """A network without feature maps whose features are the brightness of the photo, and its negative."""

    num_features = 2

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)


def made(weights: Path, backbone: torch.nn.Module | None = None) -> Classifier:
    model = Classifier(backbone="test_resnet", weights=str(weights), classes=["bright", "dark"])
    model.set_classes(["bright", "dark"])
    if backbone is not None:
        model.backbone = backbone
    return model.eval()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 2), (2, 1)])
def test_occlusion_finds_the_place_of_the_clue(weights: Path, row: int, column: int) -> None:
    model = made(weights, Bright())
    model.head = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model.head[0].weight.copy_(torch.eye(2))
    heat = heat_maps(model, photo_with_a_clue(row, column), torch.tensor([0]))[0]
    assert heat.shape == (7, 7)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert (int(y * 3 / 7), int(x * 3 / 7)) == (row, column)
    assert float(heat.max()) == pytest.approx(1)
    assert float(heat.min()) >= 0


def test_grad_cam_is_the_formula_of_its_paper(weights: Path) -> None:
    """The weights of the maps are the mean gradients: for a linear head over mean features, its own weights."""
    model = made(weights)
    model.head = torch.nn.Sequential(torch.nn.Linear(model.backbone.num_features, 2))
    photo = photo_with_a_clue(1, 1)
    heat = heat_maps(model, photo, torch.tensor([1]))
    with torch.no_grad():
        maps = model.backbone.forward_features(model.normalise(photo))
        expected = torch.einsum("f,bfhw->bhw", model.head[0].weight[1], maps).clamp(min=0)
    torch.testing.assert_close(heat, expected / expected.amax().clamp(min=1e-12), rtol=1e-4, atol=1e-5)
    assert not any(p.grad is not None for p in model.parameters())


def test_other_weights_give_another_map(real_data: Path) -> None:
    weights = real_data / "weights/mobilenetv2_100.safetensors"
    photos = sorted((real_data / "woof10/test").glob("*/*"))[::20][:6]
    trained = Classifier(backbone="mobilenetv2_100", weights=str(weights), classes=["a", "b"]).eval()
    trained.set_classes(["a", "b"])
    random = Classifier(backbone="mobilenetv2_100", load_weights=False, classes=["a", "b"]).eval()
    random.set_classes(["a", "b"])
    random.head.load_state_dict(trained.head.state_dict())
    pixels = [np.asarray(Image.open(p).convert("RGB").resize((224, 224))) for p in photos]
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    ones = torch.ones(len(photos), dtype=torch.int64)
    maps = [heat_maps(model, batch, ones).flatten(1).numpy() for model in (trained, random)]
    again = heat_maps(trained, batch, ones).flatten(1).numpy()
    np.testing.assert_allclose(maps[0], again, atol=1e-5)
    likeness = [np.corrcoef(a, b)[0, 1] if a.std() and b.std() else 0.0 for a, b in zip(*maps, strict=True)]
    assert np.mean(np.abs(likeness)) < 0.5, likeness


@pytest.mark.slow
def test_the_command_writes_a_picture(
    config: Compose, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sagehound.cli import predict_command
    from sagehound.training.train import train

    run = train(config("artifact=true"), tmp_path / "run").folder
    some = [min((photos / f"test/{name}").iterdir()) for name in ("002.Slate", "003.Moss")]  # both are 000.jpg
    predict_command.predict("sagehound predict", [str(run), *map(str, some), "--explain", str(tmp_path / "seen")])
    assert capsys.readouterr().out.count("shows what the model looked at") == 2
    names = {path.name: path for path in (tmp_path / "seen").iterdir()}
    assert set(names) == {"000.jpg", "000-2.jpg"}
    size = sagehound.load(run).preprocessing.size
    with Image.open(names["000.jpg"]) as picture:
        assert picture.size == (2 * size[1], size[0])
    archive = str(run / "model.tar.gz")
    with pytest.raises(SystemExit) as ended:
        predict_command.predict("sagehound predict", [archive, str(some[0]), "--explain", str(tmp_path / "seen")])
    assert ended.value.code == 2
    assert "--explain needs the run's folder" in capsys.readouterr().err
