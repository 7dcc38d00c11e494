"""The command line: options, help, and what Python gets of them; what it says of mistakes is in `test_messages.py`."""

from __future__ import annotations

import dataclasses
import re
from typing import get_type_hints

import pytest
import yaml

from moco.cli import main
from moco.cli.ablate import read
from moco.cli.functions import COMMANDS, make_parser
from moco.cli.parser import with_underscores
from moco.cli.pretrain import GROUPS
from moco.commands.options import Options
from moco.config import Config
from moco.errors import ConfigError
from moco.recipes import RECIPES, configure
from moco.sizes import StatedSize


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().err


def test_the_command_trains_and_prints_where(capsys, photos, tmp_path):
    code, said = run(
        capsys,
        *("pretrain", str(photos), "--out", str(tmp_path / "run"), "--backbone", "resnet_tiny", "--image-size", "16"),
        *("--batch-size", "4", "--steps", "2", "--dictionary-size", "8", "--num-neighbors", "2", "--threads", "1"),
        *("--recipe", "v2"),
    )
    assert code == 0, said
    assert str(tmp_path / "run") in said


def test_yaml_command_line_and_python_give_one_configuration(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "--recipe", "cifar", "--batch-size", "64", "--print-config"])
    assert end.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    expected = dataclasses.asdict(configure("cifar", {"batch_size": 64}))
    for name, value in expected.items():
        assert printed[name] == (list(value) if isinstance(value, tuple) else value), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid_and_named(recipe):
    assert RECIPES[recipe]().recipe == recipe


def test_the_papers_defaults():
    v1, v2, cifar = (RECIPES[name]() for name in ("v1", "v2", "cifar"))
    for paper in (v1, v2):
        assert (paper.dictionary_size, paper.key_momentum, paper.embedding_dim) == (65536, 0.999, 128)
        assert (paper.learning_rate, paper.batch_size, paper.epochs, paper.weight_decay) == (0.03, 256, 200, 1e-4)
        assert (paper.crop_min, paper.normalization, paper.warmup_steps) == (0.2, "imagenet", 0)
    assert (v1.head, v1.temperature, v1.schedule, v1.jitter_probability, v1.hue) == ("linear", 0.07, "step", 1.0, 0.4)
    assert v1.grayscale_first
    assert v1.blur_probability == 0
    assert (v2.head, v2.temperature, v2.schedule, v2.jitter_probability, v2.hue) == ("mlp", 0.2, "cosine", 0.8, 0.1)
    assert not v2.grayscale_first
    assert v2.blur_probability == 0.5
    assert (cifar.learning_rate, cifar.batch_size, cifar.dictionary_size) == (0.06, 512, 4096)
    assert (cifar.key_momentum, cifar.temperature, cifar.split_groups) == (0.99, 0.1, 8)
    assert (cifar.weight_decay, cifar.crop_min, cifar.blur_probability) == (5e-4, 0.08, 0)


def test_another_optimizer_than_the_recipes_has_a_learning_rate_and_weight_decay_of_its_own():
    assert configure("v2", {"optimizer": "muon", "batch_size": 64}).learning_rate == pytest.approx(0.002)
    assert configure("fast", {"optimizer": "sgd"}).base_learning_rate == configure("v2", {}).base_learning_rate
    assert configure("fast", {"optimizer": "muon"}).base_learning_rate == 0.008
    assert configure("v2", {"optimizer": "muon", "base_learning_rate": 0.5}).base_learning_rate == 0.5
    book, v2 = configure("picturebook", {"optimizer": "sgd"}), configure("v2", {})
    assert (book.base_learning_rate, book.weight_decay) == (v2.base_learning_rate, v2.weight_decay)
    assert configure("picturebook", {}).weight_decay != v2.weight_decay
    assert configure("v3", {"optimizer": "adamw"}).base_learning_rate == configure("v3", {}).base_learning_rate


@pytest.mark.parametrize("name", ["optimizer", "mechanism", "backbone", "head"])
@pytest.mark.parametrize("value", [["sgd"], {"sgd": 1}, 3, None])
def test_what_is_no_word_where_one_is_expected_is_a_mistake_of_the_configuration(name, value):
    with pytest.raises(ConfigError, match=name):
        configure("v2", {name: value})


def test_the_learning_rate_scales_with_the_batch():
    assert configure("v2", {"batch_size": 128}).learning_rate == pytest.approx(0.015)


def test_a_short_run_shortens_the_warm_up_of_the_recipe_but_not_the_users():
    assert configure("picturebook", {}).warmup_steps == 100
    assert configure("picturebook", {"steps": 30}).warmup_steps == 7
    assert configure("picturebook", {"steps": 4000}).warmup_steps == 100
    assert configure("picturebook", {"steps": 30, "warmup_steps": 20}).warmup_steps == 20
    with pytest.raises(ConfigError, match="warm up for fewer steps"):
        configure("picturebook", {"steps": 30, "warmup_steps": 30})


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().batch_size = 3


def test_data_may_stand_in_the_configuration_file(tmp_path, photos, monkeypatch):
    given = []
    monkeypatch.setattr("moco.commands.pretrain.pretrain", lambda data, **options: given.append(data) or FinishedRun())
    (tmp_path / "run.yaml").write_text(f"data: {photos}\nrecipe: cifar\n")
    assert main(["pretrain", "--config", str(tmp_path / "run.yaml")]) == 0
    assert main(["pretrain", "elsewhere", "--config", str(tmp_path / "run.yaml")]) == 0
    assert given == [str(photos), "elsewhere"]


@dataclasses.dataclass
class FinishedRun:
    finished: bool = True


@pytest.mark.parametrize("arguments", [["--image-size", "64", "photos"], ["photos"], ["--quiet", "photos"]])
def test_the_shown_recipe_is_that_of_the_data_wherever_it_stands(arguments, capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", *arguments, "--print_config"])
    assert "recipe: v2" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_options_that_are_on_or_off_take_no_value(command):
    parser = make_parser(COMMANDS[command])
    first = "detection" if command == "transfer" else "word"
    given = [first] * sum(not action.option_strings for action in parser._actions)
    for action in parser._actions:
        if isinstance(action.default, bool):
            assert action.nargs == 0, action.dest
            chosen = parser.parse_args([*given, f"--{action.dest}"], defaults=False)
            assert chosen[action.dest] is True


def test_the_flags_of_a_recipe_can_be_taken_back(capsys):
    assert printed(capsys, "--recipe", "v3")["symmetric"] is True
    assert printed(capsys, "--recipe", "v3", "--no-symmetric")["symmetric"] is False
    assert printed(capsys, "--recipe", "v2", "--grayscale-first", "photos")["grayscale_first"] is True


def test_a_flag_before_the_images_does_not_hide_them(monkeypatch):
    given = []
    monkeypatch.setattr("moco.commands.pretrain.pretrain", lambda data, **_: given.append(data) or FinishedRun())
    for flag in ("--symmetric", "--no-grayscale-first", "--quiet"):
        assert main(["pretrain", flag, "photos"]) == 0
    assert given == ["photos"] * 3


@pytest.mark.parametrize(
    "written", [["0.2,0.7"], ["[0.2,0.7]"], ["0.2", "0.7"], ["[0.2, 0.7]"], ["0.2,", "0.7"], ["=0.2", "=0.7"]]
)
def test_a_list_has_commas_or_is_repeated(capsys, written):
    words = [f"--lr-milestones{w}" if w[0] == "=" else w for w in written]
    options = [part for word in words for part in ([word] if word[:2] == "--" else ["--lr-milestones", word])]
    assert printed(capsys, *options)["lr_milestones"] == [0.2, 0.7]
    rates = [option.replace("lr-milestones", "learning-rates") for option in options]
    chosen = make_parser(COMMANDS["evaluate"]).parse_args(with_underscores(["run", *rates]))
    assert list(chosen.learning_rates) == [0.2, 0.7]


def test_a_grid_reads_lists_and_truth_values_too():
    assert list(read("lr_milestones", "0.2,0.7")) == [0.2, 0.7]
    assert read("symmetric", "true") is True


def printed(capsys, *options):
    """The configuration that `moco pretrain` would use."""
    with pytest.raises(SystemExit):
        main(["pretrain", *options, "--print-config"])
    return yaml.safe_load(capsys.readouterr().out)


def help_of(capsys, *arguments):
    """What `moco ARGUMENTS --help` prints."""
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    return capsys.readouterr().out


# The parser looks through all loaded subclasses of a type for its help, numpy's deprecated ones among them.
@pytest.mark.filterwarnings("ignore:.*chararray:DeprecationWarning")
@pytest.mark.parametrize("command", ["pretrain", *COMMANDS])
def test_help_speaks_the_command_lines_words(capsys, command):
    said = help_of(capsys, command)
    assert "Example: moco" in said
    for word in ("Union", "PathLike", "Literal", "None means", "{true,false}", "[ITEM", "type:"):
        # As a word of its own: the parser names loaded classes too, such as torchmetrics' IntersectionOverUnion.
        assert not re.search(rf"(?<!\w){re.escape(word)}", said), word


def test_help_names_the_commands_in_the_order_of_work(capsys):
    said = help_of(capsys)
    places = [said.index(f"\n  {name} ") for name in ("pretrain", "evaluate", "embed", "export", "pack", "ablate")]
    assert places == sorted(places)
    assert all(f"moco {name} " in said for name in ("pretrain", *COMMANDS)), "an example of each"


def test_help_shows_the_options_of_a_run_by_subject(capsys):
    said = help_of(capsys, "pretrain")
    places = [said.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    most_used = said[places[0] : places[1]]
    assert all(option in most_used for option in ("--out", "--resume", "--backbone", "--image-size", "--batch-size"))
    assert most_used.count("\n  --") <= 14


def test_every_field_of_a_configuration_is_in_one_group_and_an_option_of_python():
    fields = [field.name for field in dataclasses.fields(Config)]
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(fields)
    expected = {
        name: hint for name, hint in get_type_hints(Config).items() if name not in ("recipe", "backbone", "init")
    }
    sizes = {"image_size": StatedSize, "small_view_size": StatedSize | None}
    assert get_type_hints(Options) == {**expected, **sizes}


def test_patterns_are_repeated_and_stand_above_those_of_a_file(capsys, tmp_path):
    options = ["--exclude", "*.png", "--exclude=[ab]*,c", "--include", "train/*"]
    shown = printed(capsys, "photos", *options)
    assert (shown["include"], shown["exclude"]) == (["train/*"], ["*.png", "[ab]*,c"])
    (tmp_path / "c.yaml").write_text("include: ['a*']\nexclude: [b]\nlr_milestones: [0.1]\nschedule: step\n")
    shown = printed(capsys, "photos", "--config", str(tmp_path / "c.yaml"), "--exclude", "c", "--lr-milestones", "0.5")
    assert (shown["include"], shown["exclude"], shown["lr_milestones"]) == (["a*"], ["c"], [0.5])
    help_text = help_of(capsys, "pretrain")
    assert "--exclude PATTERN" in help_text
    assert "default )" not in help_text


def test_loggers_are_named_once_each(monkeypatch):
    given = []
    monkeypatch.setattr("moco.commands.pretrain.pretrain", lambda _, **o: given.append(o["loggers"]) or FinishedRun())
    assert main(["pretrain", "photos", "--logger", "csv", "--logger=wandb"]) == 0
    assert main(["pretrain", "photos"]) == 0
    assert given == [["csv", "wandb"], None]


def test_an_unfinished_run_gives_the_code_of_ctrl_c(monkeypatch):
    monkeypatch.setattr("moco.commands.pretrain.pretrain", lambda *_, **__: FinishedRun(finished=False))
    assert main(["pretrain", "photos"]) == 130
