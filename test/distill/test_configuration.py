from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scaleevent_ros.distill.configuration import (
    RENAMED,
    Pretraining,
    parse_configuration,
    plain,
)
from scaleevent_ros.distill.errors import ConfigurationError

PRESETS = Path(__file__).resolve().parents[2] / "config" / "pretrain"

NAMES = {"s": "small", "b": "base", "l": "large"}


def parse(*arguments: str) -> Pretraining:
    return parse_configuration(Pretraining, arguments, "test")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer.batch_sise", "7"], "batch_sise"),
        (["--trainer.batch_size", "many"], "trainer.batch_size: Expected a .*int.*many"),
        (["--optimizer.clip", "low"], "optimizer.clip: Expected a .*float.*low"),
        (["--trainer.compile", "7"], "trainer.compile: Expected a .*bool"),
        (["--data.train", "bags"], "data.train: Expected a .*list"),
        (["--trainer.batch_size", "0"], "trainer.batch_size is 0, it must be from 1"),
        (["--trainer.accumulate", "3"], "32 does not divide into 3"),
        (["--augmentation.flip", "3"], "flip is 3"),
        (["--augmentation.zoom", "[2, 1]"], "zoom is"),
        (["--events.window.mode", "long"], "events.window.mode.*fixed"),
        (["--events.window.length_ms", "-1"], "length_ms is -1"),
        (["--events.normalization", "scaleevent_picture"], "needs 3 channels"),
        (["--loss.name", "l2"], "structure_active"),
        (["--loss.options", '{"near": 1}'], "no option 'near'"),
        (["--teacher.scale", "3"], "teacher.scale"),
        (["--teacher.cache", "c", "--augmentation.crop", "true"], "teacher.cache keeps"),
        (["--data.train", '["a"]', "--data.weights", "[1, 2]"], "2 entries, data.train 1"),
        (["--data.holdout", "0"], "nothing to validate on"),
        (["--optimizer.learning_rate", "0"], "optimizer.learning_rate is 0"),
        (["--config", "/nowhere.yaml"], "nowhere.yaml"),
        (["--trainer.precision", "float32"], "trainer.precision: Expected .*'fp32'.*float32"),
    ],
)
def test_what_cannot_be_is_one_clear_error(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("old", RENAMED)
def test_old_names_are_refused_with_the_new_one(tmp_path: Path, old: str) -> None:
    words = rf"^{old} is now {RENAMED[old].split(',')[0]}"
    with pytest.raises(ConfigurationError, match=words):
        parse(f"--{old}", "0.5")
    section, _, name = old.partition(".")
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump({section: {name: 0.5}}))
    with pytest.raises(ConfigurationError, match=words):
        parse("--config", str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainer: {epochs: 3, bogus: 2}", "bogus"),
        ("trainers: {epochs: 3}", "trainers"),
        ("trainer: [", "parsing"),
        ("trainer: !!python/object/apply:os.getcwd []", "python/object|pars"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        parse("--config", str(path))


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_whole_and_survive_being_written(preset: Path, tmp_path: Path) -> None:
    configuration = parse("--config", str(preset))
    assert configuration != Pretraining()
    written = tmp_path / "again.yaml"
    written.write_text(yaml.safe_dump(plain(configuration)))
    assert parse("--config", str(written)) == configuration


def test_the_papers_presets_hold_the_papers_numbers() -> None:
    for size in ("s", "b", "l"):
        paper = parse("--config", str(PRESETS / f"paper_vit{size}16.yaml"))
        assert (paper.data.width, paper.data.height) == (640, 480)
        assert (paper.events.bins, paper.events.activity_threshold) == (3, 64)
        assert (paper.optimizer.learning_rate, paper.optimizer.weight_decay) == (5e-6, 1e-4)
        assert (paper.optimizer.clip, paper.optimizer.decay_all) == (0.1, True)
        assert (paper.trainer.epochs, paper.trainer.pairs_per_epoch) == (10, 100_000)
        assert paper.loss.name == "structure"
        assert paper.loss.options == {"feature": 1, "intra": 10, "cross": 4}
        assert paper.augmentation == Pretraining().augmentation
        assert not paper.augmentation.resamples
        assert f"vit_{NAMES[size]}_" in paper.teacher.name


def test_the_line_wins_over_the_file_and_all_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    preset = str(PRESETS / "cpu.yaml")
    assert parse("--config", preset, "--trainer.epochs", "1").trainer.epochs == 1
    with pytest.raises(SystemExit):
        parse("--config", preset, "--trainer.epochs", "1", "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["epochs"] == 1
    assert printed.keys() == plain(Pretraining()).keys()
    assert printed["augmentation"].keys() == plain(Pretraining())["augmentation"].keys()
