import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from inflame import config
from inflame.config import Hyperparam, Settings, parse_duration
from inflame.errors import DataError, SettingError

TOML = """\
# python app.py train
# 98 % in 20 s on 2 cores
seed = 3
in = "60s"

[hyperparam]
num_epochs = 10
learning_rate = 1e-2  # at the peak
# channels of each stage
widths = [16, 32]
optimizer = "sgd"
nesterov = true

[io]
training_input = "digits"
inference_input = "./photo.jpg"

[io.azure]
training_input = "az://box/digits"
"""
CODE = """\
def train(settings):
    h = settings.hyperparam
    print(h.num_epochs, settings.hyperparam.learning_rate, h.widths, h["optimizer"], getattr(h, "nesterov"))
    return settings.io.training_input, settings.io.inference_input, settings.splits, settings.weights
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "my model")


def make(folder: Path, toml: str = TOML, code: str = CODE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model-config.toml").write_text(toml)
    (folder / "train.py").write_text(code)
    return folder


def refused(folder: Path, *words: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        config.load(folder, words)
    assert caught.value.remedy
    return caught.value


# --- what is given arrives -----------------------------------------------------------------------


def test_the_file_gives_the_values(folder: Path) -> None:
    settings = config.load(folder)
    assert settings.model == "my model"
    assert settings.folder == str(folder)
    assert (settings.seed, settings.budget, settings.limit, settings.devices) == (3, 60.0, None, 1)
    assert settings.hyperparam.learning_rate == 0.01
    assert settings.hyperparam.widths == (16, 32)
    assert settings.io.training_input == "digits"
    assert settings.io.inference_input == str(folder / "photo.jpg")


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("seed=7", "seed", 7),
        ("in=90", "budget", 90.0),
        ("in=1h30m", "budget", 5400.0),
        ("in=null", "budget", None),
        ("output=/tmp/a, b (1)/é=x", "output", "/tmp/a, b (1)/é=x"),
        ("output='quoted name'", "output", "quoted name"),
        ("output=memory://x/y", "output", "memory://x/y"),
        ("weights=~/w.safetensors", "weights", "~/w.safetensors"),
        ("fresh=true", "fresh", True),
        ("splits={train:0.8,val:0.2}", "splits", {"train": 0.8, "val": 0.2}),
        ("splits=train:0.8,dev:0.1,evaluation:0.1", "splits", {"train": 0.8, "dev": 0.1, "evaluation": 0.1}),
    ],
)
def test_a_word_wins(folder: Path, word: str, name: str, value: object) -> None:
    assert getattr(config.load(folder, [word]), name) == value


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("hyperparam.num_epochs=3", "num_epochs", 3),
        ("hyperparam.learning_rate=1", "learning_rate", 1.0),
        ("hyperparam.widths=[8]", "widths", (8,)),
        ("hyperparam.optimizer=adam", "optimizer", "adam"),
        ("hyperparam.optimizer=12", "optimizer", "12"),
        ("hyperparam.optimizer=é (x)", "optimizer", "é (x)"),
        ("hyperparam.nesterov=false", "nesterov", False),
    ],
)
def test_a_hyperparameter_keeps_the_type_of_the_file(folder: Path, word: str, name: str, value: object) -> None:
    found = config.load(folder, [word]).hyperparam[name]
    assert (found, type(found)) == (value, type(value))


def test_a_shell_may_take_braces_apart(folder: Path) -> None:
    assert config.load(folder, ["splits=train:0.8", "splits=val:0.2"]).splits == {"train": 0.8, "val": 0.2}


def test_the_last_word_wins(folder: Path) -> None:
    assert config.load(folder, ["seed=1", "seed=2"]).seed == 2


def test_a_section_is_chosen_by_name_and_a_word_wins_over_it(folder: Path) -> None:
    assert config.load(folder, ["io=azure"]).io.training_input == "az://box/digits"
    assert config.load(folder, ["io.training_input=here", "io=azure"]).io.training_input == "here"


def test_training_output_is_where_the_run_goes_unless_told_otherwise(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", TOML.replace("[io]", '[io]\ntraining_output = "gs://box/run"'))
    assert config.load(folder).output == "gs://box/run"
    assert config.load(folder, ["output=here"]).output == "here"


# --- what is wrong is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "guess"),
    [
        ("sed=1", "seed"),
        ("lr=1", "hyperparam.learning_rate"),
        ("learning_rate=1", "hyperparam.learning_rate"),
        ("learning-rate=1", "hyperparam.learning_rate"),
        ("hyperparam.learnin_rate=1", "hyperparam.learning_rate"),
        ("hyper.learning_rate=1", "hyperparam.learning_rate"),
        ("epochs=1", "hyperparam.num_epochs"),
        ("training_input=x", "io.training_input"),
        ("io.trainig_input=x", "io.training_input"),
        ("budget=60", "in"),
        ("data=x", "io.training_input"),
    ],
)
def test_an_unknown_setting_gets_a_guess(folder: Path, word: str, guess: str) -> None:
    error = refused(folder, word)
    assert f'Did you mean "{guess}"?' in error.message
    assert word in error.where


def test_a_known_setting_that_this_model_lacks(folder: Path) -> None:
    assert "This model has no such hyperparameter" in refused(folder, "hyperparam.dropout=0.1").message


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("seed=abc", "a whole number, at least 0"),
        ("seed=-1", "at least 0"),
        ("seed=1.5", "a whole number"),
        ("seed=", "a whole number"),
        ("seed=é", "a whole number"),
        ("limit=0", "at least 1"),
        ("devices=true", "a whole number"),
        ("in=soon", "a length of time"),
        ("in=0", "above 0"),
        ("in=-5s", "a length of time"),
        ("fresh=maybe", "true or false"),
        ("hyperparam.num_epochs=-1", "at least 0"),
        ("hyperparam.num_epochs=many", "a whole number"),
        ("hyperparam.learning_rate=0", "a number, above 0"),
        ("hyperparam.learning_rate=nan", "a number"),
        ("hyperparam.learning_rate=inf", "a number"),
        ("hyperparam.nesterov=1", "true or false"),
        ("hyperparam.widths=[1,a]", "a list"),
        ("hyperparam.widths=3", "a list"),
        ("splits=train:0.8", "add up to 1"),
        ("splits=train", "add up to 1"),
        ("splits=train:1.2,val:-0.2", "add up to 1"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(folder: Path, word: str, says: str) -> None:
    error = refused(folder, word)
    key = word.partition("=")[0]
    assert error.message.startswith(f"{word}: {key} must be ")
    assert says in error.message
    assert error.where == f"command line: {word}"
    assert error.remedy.startswith(f"For example: {key}=")


@pytest.mark.parametrize(
    "word",
    [
        "hyperparam.learning_rate=0.1,0.01",
        "seed=range(1,5)",
        "seed=1,2",
        "in=30s,60s",
        "hyperparam.optimizer=sgd,adam",
        "hyperparam.optimizer=choice(sgd,adam)",
        "io.training_input=choice(a,b)",
    ],
)
def test_several_values_belong_to_a_sweep(folder: Path, word: str) -> None:
    assert f"inflame sweep MODEL '{word}'" in refused(folder, word).remedy


@pytest.mark.parametrize("word", ["photos/", "+seed=1", "~seed", "seed@x=1", "=1", "++seed=1", "se ed=1"])
def test_what_is_no_setting_is_refused(folder: Path, word: str) -> None:
    assert "key=value" in refused(folder, word).remedy or "seed=" in refused(folder, word).remedy


def test_an_unknown_section_gets_a_guess(folder: Path) -> None:
    error = refused(folder, "io=azur")
    assert 'Did you mean "azure"?' in error.message
    assert "io=azure" in error.remedy


def test_an_unknown_tracker_is_refused(folder: Path) -> None:
    assert "jsonl" in refused(folder, "tracker=jsonll").message


def test_a_password_never_enters_the_settings_nor_the_message(folder: Path) -> None:
    error = refused(folder, "io.training_input=https://me:hunter2@host/x")
    assert "environment" in error.message
    assert "hunter2" not in error.explain()


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("seed = 3", "sede = 3", 3, 'Did you mean "seed"'),
        ("seed = 3", 'seed = "3"', 3, "a whole number"),
        ("num_epochs = 10", "num_epochs = -1", 7, "at least 0"),
        ('optimizer = "sgd"', "optimizer = {a = 1}", 11, "not a kind of value"),
        ("widths = [16, 32]", 'widths = [16, "x"]', 10, "not a kind of value"),
        ('optimizer = "sgd"', "lambda = 1", 11, "can't be the name"),
        ('optimizer = "sgd"', "keys = 1", 11, "can't be the name"),
        ("nesterov = true", "nesterov = true\nunread = 1", 13, "no file of this folder reads it"),
        ("[io.azure]\ntraining_input", "[io.azure]\ntrainig_input", 19, "io.training_input"),
        ("[io.azure]\ntraining_input =", "[io.azure]\ntraining_input = 3 #", 19, "a path or a uri"),
        ("seed = 3", "seed = 3\nlimit = 100", 4, "has no effect"),
        ("seed = 3", "seed = 3\n_target_ = 'os.system'", 4, "There is no setting"),
        ("seed = 3", "seed = = 3", 3, "not valid TOML"),
        ("[hyperparam]", "hyperparam = 3\n[more]", 6, "must be a table"),
    ],
)
def test_a_mistake_in_the_file_is_found_with_its_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in TOML
    folder = make(tmp_path / "m", TOML.replace(old, new, 1))
    error = refused(folder)
    assert says in error.message
    assert error.where == f"{folder / 'model-config.toml'}:{line}"


def test_a_folder_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no model-config\.toml"):
        config.load(tmp_path)


# --- what nothing reads is refused ---------------------------------------------------------------


@pytest.mark.parametrize("word", ["net=resnet18", "limit=100", "devices=2"])
def test_a_common_setting_that_the_model_ignores_is_refused(folder: Path, word: str) -> None:
    assert "has no effect on this model" in refused(folder, word).message


@pytest.mark.parametrize(
    "line",
    [
        "settings.limit",
        "config.limit",
        "from inflame.model.engine import reads_it",
        "import inflame.model.engine.reads_it as r",
    ],
)
def test_a_common_setting_counts_where_the_model_or_its_engine_reads_it(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "inflame"
    (package / "model" / "engine").mkdir(parents=True)
    (package / "model" / "engine" / "reads_it.py").write_text("def f(settings):\n    return settings.limit\n")
    monkeypatch.setattr(config.reading, "PACKAGE", package)
    folder = make(tmp_path / "m", code=f"{CODE}    {line}\n")
    assert config.load(folder, ["limit=5"]).limit == 5


@pytest.mark.parametrize(
    "code",
    [
        "import torch.nn as nn\nnn.unread(3)",
        "def f(self):\n    self.unread = 1\n    return self.unread",
        "f(unread=1)",
        "# unread",
        "'''about unread'''",
    ],
)
def test_a_namesake_is_not_a_read(tmp_path: Path, code: str) -> None:
    folder = make(tmp_path / "m", TOML.replace("nesterov = true", "nesterov = true\nunread = 1"), CODE + code)
    assert "hyperparam.unread is set, but no file of this folder reads it" in refused(folder).message


@pytest.mark.parametrize(
    "code",
    ["h.also", "h['also']", "h.get('also', 1)", "build(**settings.hyperparam)\ndef build(also, **rest): ..."],
)
def test_ways_to_read(tmp_path: Path, code: str) -> None:
    folder = make(tmp_path / "m", TOML.replace("nesterov = true", "nesterov = true\nalso = 1"))
    (folder / "net.py").write_text(f"def f(h, settings):\n    {code.replace(chr(10), chr(10) + '    ')}\n")
    assert config.load(folder).hyperparam.also == 1


def test_tests_and_data_beside_the_model_do_not_count(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", TOML.replace("nesterov = true", "nesterov = true\nunread = 1"))
    (folder / "test_train.py").write_text("h.unread")
    (folder / "data").mkdir()
    (folder / "data" / "x.py").write_text("h.unread")
    assert "no file of this folder reads it" in refused(folder).message
    (folder / "data" / "__init__.py").touch()
    assert config.load(folder).hyperparam.unread == 1


def test_code_that_reads_what_the_file_does_not_set(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", code=f"{CODE}\n\ndef f(s):\n    return s.hyperparam.learnig_rate\n")
    error = refused(folder)
    assert 'Did you mean "learning_rate"?' in error.message
    assert error.where.endswith("train.py:8")


def test_code_that_is_not_python_is_said_with_its_line(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", code="def train(settings):\n    return (\n")
    with pytest.raises(DataError, match=r"train\.py is not valid Python") as caught:
        config.load(folder)
    assert caught.value.where.endswith("train.py:2")


# --- settings are frozen, and the same again -----------------------------------------------------


def test_settings_are_frozen(folder: Path) -> None:
    settings = config.load(folder)
    for thing, name in ((settings, "seed"), (settings.io, "training_input"), (settings.hyperparam, "learning_rate")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del settings.hyperparam.learning_rate


def test_a_misspelt_hyperparameter_in_code_gets_a_guess(folder: Path) -> None:
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        _ = config.load(folder).hyperparam.learning_rat


def test_settings_survive_json_and_pickle(folder: Path) -> None:
    settings = config.load(folder, ["splits=a:0.5,b:0.5"])
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_hyperparam_is_a_mapping() -> None:
    h = Hyperparam(a=1, b=(2, 3))
    assert dict(**h) == {"a": 1, "b": (2, 3)}
    assert (list(h), len(h), "a" in h, h.get("c", 5)) == (["a", "b"], 2, True, 5)
    assert hash(h) == hash(Hyperparam(a=1, b=(2, 3)))
    assert "a=1" in repr(h)


@pytest.mark.parametrize(
    "word", ["seed=4", "in=61s", "hyperparam.learning_rate=0.02", "io.training_input=mnist", "weights=w", "splits=a:1"]
)
def test_whatever_changes_the_result_changes_the_identity(folder: Path, word: str) -> None:
    assert config.load(folder, [word]).identity() != config.load(folder).identity()


@pytest.mark.parametrize("word", ["output=x", "fresh=true", "resume=x", "tracker=jsonl", "io.inference_input=x"])
def test_what_does_not_change_the_result_does_not(folder: Path, word: str) -> None:
    assert config.load(folder, [word]).identity() == config.load(folder).identity()


def test_other_code_is_another_identity_and_another_place_is_not(folder: Path, tmp_path: Path) -> None:
    before = config.load(folder).identity()
    moved = make(tmp_path / "elsewhere" / "my model")
    assert config.load(moved).identity() == before
    (moved / "train.py").write_text(CODE + "\n# changed\n")
    assert config.load(moved).identity() != before


def test_the_same_folder_is_the_same_data_however_it_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ("photos", "photos/", "./photos", str(tmp_path / "photos"), (tmp_path / "photos").as_uri())
    assert len({config.load(folder, [f"io.training_input={word}"]).identity() for word in words}) == 1


# --- help, durations, cost -----------------------------------------------------------------------


def test_describe_gives_values_and_comments(folder: Path) -> None:
    head, rows = config.describe(folder)
    assert head == "python app.py train\n98 % in 20 s on 2 cores"
    by_key = {row.key: row for row in rows}
    assert by_key["hyperparam.learning_rate"].value == "0.01"
    assert by_key["hyperparam.learning_rate"].comment == "at the peak"
    assert by_key["hyperparam.widths"].comment == "channels of each stage"
    assert by_key["io"].comment.endswith("io=azure")
    assert "seed" in by_key
    assert "net" not in by_key, "what has no effect on this model is not offered"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("1.5m", 90),
        ("2h", 7200),
        ("90", 90),
        ("1h 30m", 5400),
        ("500ms", 0.5),
        (45, 45),
        (" 1 min ", 60),
    ],
)
def test_parse_duration(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "60x", "-1s", "0", "1m x", "inf", "nan", "1e3s", True])
def test_parse_duration_refuses(text: str) -> None:
    with pytest.raises(SettingError, match="length of time"):
        parse_duration(text)


def test_loading_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from inflame import config\n"
        "config.load(Path(sys.argv[1]), ['seed=3', 'in=60s'])\n"
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'fsspec') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(folder)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(("word", "guess"), [("strategy=fdsp", "fsdp"), ("debug=overfitt", "overfit")])
def test_a_setting_of_a_few_words_takes_no_other(folder: Path, word: str, guess: str) -> None:
    assert f'Did you mean "{guess}"' in refused(folder, word).message
    assert config.load(folder, [f"{word.partition('=')[0]}={guess}"])


@pytest.mark.parametrize(("word", "size"), [("auto", 0), ("0", 0), ("64", 64)])
def test_a_batch_size_may_be_auto(tmp_path: Path, word: str, size: int) -> None:
    folder = make(tmp_path / "m", "[hyperparam]\nbatch_size = 32\n", "def train(s): return s.hyperparam.batch_size\n")
    assert config.load(folder, [f"hyperparam.batch_size={word}"]).hyperparam.batch_size == size
    assert "(or auto)" in refused(folder, "hyperparam.batch_size=abc").message


def test_the_example_of_a_refusal_is_a_value_that_is_taken() -> None:
    from inflame.config.schema import COMMON
    from inflame.monitor.rules import KEYS

    for name, key in {**COMMON, **KEYS}.items():
        if key.kind in ("whole", "number"):
            found = float(key.example())
            assert key.check(int(found) if key.kind == "whole" else found) == found, name
