"""report.html: in a real browser, for a run, a search and several runs; and its next actions really run."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import COLOURS, Command, Compose, make_photos, save_photo, small_all
from playwright.sync_api import Browser, Page

from sagehound import report
from sagehound.errors import InputError
from sagehound.evaluation.mcnemar import mcnemar
from sagehound.report import contents, search_report
from sagehound.report.next_actions import caveats, next_actions
from sagehound.training.train import train


def opened(browser: Browser, path: Path, width: int, scheme: Any = "light") -> Page:  # noqa: ANN401 - a literal
    """The page; afterwards it has asked for no other address."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert [url for url in asked if not url.startswith(("data:", path.as_uri()))] == []
    return page


def check(browser: Browser, path: Path) -> None:
    """Accessible in light and dark, no wider than a phone, and printable."""
    for scheme in ("light", "dark"):
        page = opened(browser, path, 360, scheme)
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        page.close()
    page = opened(browser, path, 1000)
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()


@pytest.fixture(scope="module")
def folder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report, some photos of which have a wrong label."""
    from helpers import ROOT
    from hydra import compose, initialize_config_dir

    from sagehound.config import register, typed

    here = tmp_path_factory.mktemp("report")
    photos = make_photos(here / "photos", train=10, valid=4, test=6)
    for i in range(3):  # amber photos in the folder of slate
        save_photo(photos / f"train/002.Slate/wrong{i}.jpg", COLOURS["001.Amber"], seed=900 + i)
    register()
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        patch.setenv("SAGEHOUND_CACHE", str(here / "cache"))
        overrides = [
            *small_all(photos, weights),
            "report=true",
            "debugger=local",
            "debugger.preflight=false",
            "debugger.save=true",
            "trainer.max_epochs=3",
        ]
        train(typed(compose("train", overrides=overrides)), here / "run", overrides=overrides)
    return here / "run"


@pytest.mark.slow
def test_a_run_writes_a_page_that_a_person_can_read(folder: Path, browser: Browser) -> None:
    check(browser, folder / report.NAME)
    page = opened(browser, folder / report.NAME, 1000)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert page.locator(".answer").first.inner_text() == f"Test accuracy {metrics['test']['top1']:.1%}"
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings[0] == "Result"
    assert {"Photos", "Training", "Confusion", "Classes", "Calibration", "Debugger", "Time"} <= set(headings)
    alts = [image.get_attribute("alt") or "" for image in page.locator("img").all()]
    assert all(alts)
    (losses,) = [alt for alt in alts if alt.startswith("Loss of the saved tensors by train step. Last: train ")]
    assert ", valid " in losses
    page.close()


def test_the_table_of_classes_is_sorted_by_keyboard(folder: Path, browser: Browser) -> None:
    page = opened(browser, folder / report.NAME, 1000)
    table = page.locator("table.sortable")
    button = table.get_by_role("button", name="accuracy")
    for direction in ("ascending", "descending"):
        button.focus()
        page.keyboard.press("Enter")
        assert table.locator("th[aria-sort]:has(button:text-is('accuracy'))").get_attribute("aria-sort") == direction
        values = [float(text.rstrip(" %")) for text in table.locator("tbody tr td:nth-child(5)").all_inner_texts()]
        assert values == sorted(values, reverse=direction == "descending")
    page.close()


def test_wrong_labels_are_suspicious(folder: Path) -> None:
    suspicious = json.loads((folder / "insights.json").read_text())["suspicious_labels"]
    wrong = {one["file"]: one["suggested"] for one in suspicious if "wrong" in one["file"]}
    assert set(wrong.values()) == {"001.Amber"} or set(wrong.values()) == {"Amber"}
    assert len(wrong) == 3
    rows = list(csv.DictReader((folder / "without_suspicious.csv").open()))
    assert not {row["file"] for row in rows} & set(wrong)


@pytest.mark.slow
def test_every_next_action_runs(folder: Path, command: Command, launch: Command, tmp_path: Path) -> None:
    """Each command is run as it stands, in a folder of its own; a search has 3 trials instead of 20."""
    actions = next_actions(contents.read(folder))
    assert 1 <= len(actions) <= 3
    for number, action in enumerate(actions):
        program, verb, *words = shlex.split(action.command)
        assert (program, verb in ("train", "launch")) == ("sagehound", True)
        key = "hydra.sweep.dir" if "-m" in words else "hydra.run.dir"
        words = ["hpo.max_jobs=3" if word == "hpo.max_jobs=20" else word for word in words]
        done = (command if verb == "train" else launch)(*words, f"{key}={tmp_path}/{number}")
        assert done.returncode == 0, (action, done.stderr)
    review = next(action for action in actions if action.title == "Review the suspicious labels")
    again = contents.read(tmp_path / str(actions.index(review)))
    assert not [row for row in again.predictions if "wrong" in row["file"]], "it trains without them"


ACTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unfinished": (
        {"history": [{"epoch": 1, "valid_loss": 1.0}, {"epoch": 2, "valid_loss": 0.5}], "best_epoch": 2},
        "Train for more epochs",
        "trainer.max_epochs=4",
    ),
    "overfitted": ({"train": 0.99, "valid": 0.7}, "Augment the train photos", "augment=light features.views=5"),
    "weak head": ({"train": 0.75, "valid": 0.7}, "Fine-tune the backbone", "finetune.head_epochs=1"),
    "not calibrated": ({"ece": 0.2}, "Calibrate the probabilities", "augment.label_smoothing=0.1"),
    "finding": ({"override": "optimizer.lr=0.002"}, "Cure Fault: optimizer.lr=0.002", "optimizer.lr=0.002"),
}


def run_that_shows(case: str, overrides: list[str]) -> contents.Contents:
    given = ACTIONS[case][0]
    scores = {"top1": 0.95, "top1_interval": [0.9, 0.97], "photos": 200, "ece": given.get("ece", 0.01)}
    return contents.Contents(
        Path("run"),
        {
            "test": scores,
            "train": {"top1": given.get("train", 0.96)},
            "valid": {"top1": given.get("valid", 0.95)},
            "best_epoch": given.get("best_epoch", 1),
        },
        {"finetune": {"name": "head"}, "trainer": {"max_epochs": 2}},
        [*overrides, "hydra.run.dir=before", "overwrite=true"],
        given.get("history", []),
        findings=[{"rule": "Fault", "meaning": "m", "cause": "c", "override": given["override"]}]
        if "override" in given
        else [],
    )


@pytest.mark.parametrize("case", ACTIONS)
def test_what_a_run_shows_chooses_the_action(case: str) -> None:
    action = next_actions(run_that_shows(case, ["data=folder", "data.root=here"]))[0]
    assert action.title == ACTIONS[case][1]
    assert action.command.startswith("sagehound train data=folder data.root=here ")
    assert action.command.endswith(ACTIONS[case][2])


@pytest.mark.parametrize("changes", [{"solver": "auto"}, {}])
def test_no_action_that_cannot_help(changes: dict[str, str]) -> None:
    """A solved head has no learning rate and no augmentation, and nothing is better than every valid photo right."""
    run = run_that_shows("overfitted" if changes else "weak head", [])
    run.config["finetune"] |= changes
    run.metrics["valid"]["top1"] = 0.89 if changes else 1.0
    titles = [action.title for action in next_actions(run)]
    assert titles == (["Fine-tune the backbone"] if changes else [])


@pytest.mark.slow
@pytest.mark.parametrize("case", ACTIONS)
def test_the_command_of_the_action_runs(case: str, photos: Path, weights: Path, command: Command) -> None:
    action = next_actions(run_that_shows(case, small_all(photos, weights)))[0]
    done = command(*shlex.split(action.command)[2:], "hydra.run.dir=next")
    assert done.returncode == 0, done.stderr


def test_what_not_to_trust(folder: Path) -> None:
    run = contents.read(folder)
    sentences = " ".join(caveats(run))
    assert "18 test photos give a wide interval" in sentences
    assert "fewer than ten test photos" in sentences


@pytest.mark.slow
def test_a_report_afterwards_and_of_several_runs(folder: Path, command: Command, tmp_path: Path) -> None:
    from sagehound.cli import report_command

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / report.NAME).unlink()
    shutil.rmtree(copy / "checkpoints")
    report_command.write("sagehound report", [str(copy)])
    assert "heat map of" not in (copy / report.NAME).read_text(), "there is no checkpoint"
    with pytest.raises(SystemExit) as ended:
        report_command.write("sagehound report", [str(tmp_path)])
    assert ended.value.code == 3
    with pytest.raises(SystemExit) as ended:
        report_command.write("sagehound report", [str(tmp_path / "none")])
    assert ended.value.code == 2


@pytest.mark.slow
def test_a_comparison_of_three_runs(folder: Path, browser: Browser, tmp_path: Path) -> None:
    folders = [folder, *(shutil.copytree(folder, tmp_path / name) for name in ("other", "third"))]
    rows = list(csv.DictReader((folders[1] / "predictions.csv").open()))
    changed = [row | {"prediction": "001.Amber" if row["split"] == "test" else row["prediction"]} for row in rows]
    with (folders[1] / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(changed)
    config = folders[1] / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 3", "max_epochs: 4"))
    path = report.write_any(folders, tmp_path / "comparison.html")
    check(browser, path)
    page = opened(browser, path, 1000)
    text = page.inner_text("main")
    assert "trainer.max_epochs" in text
    assert "McNemar" in text
    page.close()


def test_mcnemar_of_known_counts() -> None:
    """Ten photos only the first has right, two only the second: p = 2 * P(X <= 2) of 12 fair coins = 0.0386."""

    def rows(right: range) -> list[dict[str, str]]:
        return [{"file": str(i), "label": "a", "prediction": "a" if i in right else "b"} for i in range(30)]

    photos, only_a, only_b, p = mcnemar(rows(range(20)), rows(range(10, 22)))
    assert (photos, only_a, only_b) == (30, 10, 2)
    assert p == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(rows(range(20)), rows(range(10, 22)), better=True)[3] == pytest.approx((1 + 12 + 66) / 4096)
    assert mcnemar(rows(range(20)), rows(range(20)))[3] == 1


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """A search of 40 trials, whose objective depends on the learning rate alone; the best is at the edge."""
    rng = np.random.default_rng(0)
    rows = [
        [i, "complete", (np.log10(lr) + 1) ** 2 + 0.01 * rng.normal(), 1.5, lr, decay, kind]
        for i, (lr, decay, kind) in enumerate(
            zip(10 ** rng.uniform(-5, -2, 40), rng.uniform(0, 0.1, 40), rng.choice(["adam", "sgd"], 40), strict=True)
        )
    ]
    with (tmp_path / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "objective", "seconds", "optimizer.lr", "optimizer.weight_decay", "kind"])
        writer.writerows([*rows, [40, "failed", "", "", 0.1, 0.1, "sgd"]])
    best = min(rows, key=lambda row: row[2])
    (tmp_path / "best.yaml").write_text(
        f"optimizer.lr: {best[4]}\noptimizer.weight_decay: {best[5]}\nkind: {best[6]}\n"
    )
    return tmp_path


@pytest.mark.slow
def test_a_search_of_forty_trials(search: Path, browser: Browser) -> None:
    path = report.write_any([search])
    check(browser, path)
    page = opened(browser, path, 1000)
    assert page.locator("table.sortable tbody tr").count() == 41
    text = page.inner_text("main")
    assert "is the largest that was tried: search further" in text
    assert f"best={search}" in text
    found = search_report.read(search)
    shares = {key: search_report.importance(found, key) for key in found.keys}
    assert max(shares, key=lambda key: shares[key]) == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.7 > 0.3 > shares["optimizer.weight_decay"]
    page.close()


@pytest.mark.slow
def test_many_classes_stay_small(tmp_path: Path, browser: Browser) -> None:
    """133 classes and 8,351 photos: under 5 MB."""
    rng = np.random.default_rng(0)
    names = [f"{i:03}.Class_{i}" for i in range(133)]
    splits = {"train": 6680, "valid": 835, "test": 836}
    rows = []
    for split, count in splits.items():
        for i in range(count):
            label = names[i % 133]
            prediction = label if rng.random() < 0.8 else names[rng.integers(133)]
            rows.append([f"{split}/{label}/{i}.jpg", split, label, prediction, f"{rng.uniform(0.2, 1):.4f}", ""])
    tests = [row for row in rows if row[1] == "test"]
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "split", "label", "prediction", "probability", "top5"], *rows])
    with (tmp_path / "per_class.csv").open("w", newline="") as file:
        columns = ["class", "train", "valid", "test", "correct", "accuracy", "precision", "f1"]
        counts = [
            [
                name,
                *(sum(row[1] == split and row[2] == name for row in rows) for split in splits),
                right := sum(row[2] == row[3] == name for row in tests),
                right / sum(row[2] == name for row in tests),
                0.5,
                0.5,
            ]
            for name in names
        ]
        csv.writer(file).writerows([columns, *counts])
    scores = {"top1": 0.8, "top1_interval": [0.77, 0.83], "top5": 0.95, "loss": 1.0, "ece": 0.1, "photos": 836}
    metrics = {
        "test": scores,
        "valid": scores,
        "train": scores,
        "best_epoch": 1,
        "classes": 133,
        "seconds": {"train": 1},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    path = report.write(tmp_path)
    assert path.stat().st_size < 5_000_000
    check(browser, path)


@pytest.mark.slow
def test_near_duplicates_are_shown_with_one_photo_of_each_split(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    audit = json.loads((copy / "audit.json").read_text())
    files = {split: [row["file"] for row in contents.read(copy).of_split(split)] for split in ("train", "test")}
    group = [*files["train"][:2], files["test"][0]]
    audit["near_duplicates_across_splits"] = [
        [{"file": f, "split": f.partition("/")[0], "label": "Slate", "distance": 1.0, "by": "hash"} for f in group]
    ]
    (copy / "audit.json").write_text(json.dumps(audit))
    page = report.write(copy).read_text()
    shown = page[page.index("Near-duplicates in more than one split:") :]
    assert [f for f in group if f">{f}<" in shown[:200_000].partition("<h2")[0]] == [group[0], group[2]]


@pytest.mark.slow
def test_names_of_photos_are_text_and_never_markup(folder: Path, browser: Browser, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "predictions.csv"
    file.write_text(re.sub(r"^test/", "test/<img src=x onerror=document.title=1>", file.read_text(), flags=re.M))
    page = opened(browser, report.write(copy), 1000)
    assert page.title().startswith("Report of")
    page.close()


@pytest.mark.slow
def test_a_report_that_fails_does_not_fail_the_run(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise InputError("no ink")

    monkeypatch.setattr(report, "write", broken)
    run = train(config("report=true", "results=all"), tmp_path / "run")
    assert run.metrics["test"]
    assert "warning: report.html was not written (InputError: no ink); sagehound report" in capsys.readouterr().out
    assert not (train(config("report=false"), tmp_path / "none").folder / "report.html").exists()
