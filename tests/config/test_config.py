import pytest
from helpers import ROOT, Compose
from hydra import compose, initialize_config_dir

from sagehound.config import Debugger, Profiler, Train, register, typed
from sagehound.errors import ConfigError
from sagehound_launchers.config.schema import LaunchWithStages
from sagehound_launchers.config.schema import register as register_launch
from sagehound_launchers.config.stage import registry

OPTIONS = [f"{path.parent.name}={path.stem}" for path in sorted((ROOT / "conf").glob("*/*.yaml"))]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_shipped_option_follows_the_rules(option: str) -> None:
    needed = {"data=folder": ["data.root=photos"], "transform=local": ["model=run"], "deploy=local": ["model=run"]}
    needed |= {"registry=local": ["model=run"], "registry=sagemaker": ["model=run"], "registry=mlflow": ["model=run"]}
    needed |= {"bias=local": ["model=run"], "bias=sagemaker": ["model=run"]}
    needed |= {"probe=local": ["endpoint=http://127.0.0.1:8080"], "probe=sagemaker": ["endpoint=name"]}
    needed |= {"monitor=local": ["model=run"], "monitor=sagemaker": ["model=run", "monitor.captured=s3://bucket/x"]}
    stage = (
        option.partition("=")[0]
        in ("hpo", "deploy", "transform", "bias", "monitor", "registry", "pipeline", "probe", "aws", "image")
        or option == "trainer=sagemaker"
    )
    if stage:
        register_launch()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        typed(compose("launch" if stage else "train", overrides=[option, *needed.get(option, [])]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=0"], "optimizer.lr=0.0: must be above 0"),
        (["optimizer.lr=nan"], "optimizer.lr=nan: must be a finite number"),
        (["head.dropout=1"], "head.dropout=1.0: must be at least 0 and below 1"),
        (["head.hidden=[64,0]"], "head.hidden=[64, 0]: must be at least 1"),
        (["data.on_bad=skp"], "data.on_bad=skp: choose from skip, fail (did you mean skip?)"),
        (["trainer.precision=16"], "trainer.precision=16: choose from auto, 32-true, bf16-mixed, 16-mixed"),
        (["data.sampling=balance"], "data.sampling=balance: choose from shuffled, balanced (did you mean balanced?)"),
        (
            ["loss.class_weights=balanced", "data.sampling=balanced"],
            "loss.class_weights=balanced and data.sampling=balanced each balance the classes",
        ),
        (["loss.logit_adjustment=1", "data.sampling=balanced"], "keep one of them"),
        (["trainer.monitor=valid.f1"], "choose from valid.loss, valid.top1, valid.macro_f1"),
        (["optimizer=sgd", "optimizer.eps=1e-8"], "optimizer=sgd has no eps"),
        (["optimizer.momentum=0.9"], "optimizer=adamw has no momentum"),
        (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: give two numbers"),
        (["finetune=gradual", "trainer.max_epochs=3"], "finetune.head_epochs=3: with finetune=gradual"),
        (["finetune=full", "finetune.head_epochs=1"], "finetune.head_epochs works only with finetune=gradual"),
        (["schedule=constant", "schedule.min_lr=0.1"], "schedule.min_lr works only with schedule=cosine"),
        (["backbone.pretrained=false"], "backbone.weights"),
        (["backbone.weights=null", "backbone.pretrained=false"], "finetune=head contradicts backbone.pretrained=false"),
        (["schedule=plateau", "schedule.warmup_epochs=1"], "schedule=plateau has no warm-up"),
        (["schedule.warmup_epochs=2"], "schedule.warmup_epochs=2 must be below trainer.max_epochs=2"),
        (["data.valid_fraction=0.5", "data.test_fraction=0.5"], "leave no photo to train on"),
        (["data.url=http://localhost/x.zip"], "data.url works only with data=dogimages"),
        (["trainer.precision=16-mixed", "trainer.accelerator=cpu"], "trainer.precision=16-mixed needs a GPU"),
        (["resume=nowhere"], "resume=nowhere: no such run or checkpoint"),
        (["data.root=???"], "data.root is missing"),
        (["+finetune.speed=1"], "finetune.speed: no such key"),
    ],
)
def test_a_broken_rule_is_reported(config: Compose, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_seed_zero_is_valid(config: Compose) -> None:
    cfg = config("seed=0")
    assert cfg.seed == 0


def test_full_fine_tuning_augments_by_default(config: Compose) -> None:
    assert config("finetune=head").augment.crop is None
    assert config("finetune=full").augment.crop == 0.35
    assert config("finetune=full", "augment=none").augment.crop is None


@pytest.mark.parametrize(
    ("experiment", "settings"),
    [
        ("dogs_resnet34", {"backbone.name": "resnet34.tv_in1k", "trainer.max_epochs": 18, "head.hidden": []}),
        ("dogs_resnet34_three_layers", {"optimizer.lr": 0.0038180486809046526, "head.hidden": [512, 256]}),
        ("dogs_resnet50_adamw", {"optimizer.name": "adamw", "optimizer.eps": 8.953219621731109e-08}),
        ("dogs_resnet50_frozen", {"optimizer.lr": 0.007304, "data.batch_size": 256, "optimizer.weight_decay": 5e-6}),
        ("dogs_resnet18", {"finetune.name": "head"}),
        ("dogs_mobilenetv2", {"backbone.name": "mobilenetv2_100"}),
    ],
)
def test_experiments_have_the_original_settings(experiment: str, settings: dict[str, object]) -> None:
    from omegaconf import OmegaConf

    register(Train)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"experiment={experiment}"])
    assert {key: OmegaConf.select(cfg, key) for key in settings} == settings


def test_no_yaml_repeats_a_default_of_the_schema() -> None:
    """YAML files contain only differing values, so that a default is changed in one place."""
    from omegaconf import OmegaConf

    defaults = OmegaConf.structured(
        LaunchWithStages(
            debugger=Debugger(), profiler=Profiler(), **{stage.name: stage.config() for stage in registry()}
        )
    )
    for path in (ROOT / "conf").glob("*/*.yaml"):
        values = OmegaConf.load(path)
        if path.read_text().startswith("# @package _global_"):
            continue  # it overrides other options, or sets Hydra's keys
        for key, value in values.items():
            default = (
                None if OmegaConf.is_missing(defaults[path.parent.name], key) else defaults[path.parent.name].get(key)
            )
            assert key in ("defaults", "name") or value != default, f"{path}: {key} is the default"
