"""The search space: overrides become Optuna's distributions, and parameters become overrides."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.space import (
    Space,
    custom_function,
    first_params,
    grid_values,
    make_space,
    suggest,
)
from tests.sweeps.small_app import App


def parsed(override: str) -> Any:
    """Returns the value that Hydra's parser finds in an override."""
    return OverridesParser.create().parse_override(override).value()


DISTRIBUTIONS: list[tuple[str, BaseDistribution]] = [
    ("interval(0,1)", FloatDistribution(0, 1)),
    ("interval(1,1)", FloatDistribution(1, 1)),
    ("interval(-1.5,2e3)", FloatDistribution(-1.5, 2000)),
    ("tag(log,interval(1e-4,1))", FloatDistribution(1e-4, 1, log=True)),
    ("int(interval(1,8))", IntDistribution(1, 8)),
    ("tag(log,int(interval(1,8)))", IntDistribution(1, 8, log=True)),
    ("int(tag(log,interval(1,8)))", IntDistribution(1, 8, log=True)),
    ("range(4)", IntDistribution(0, 3)),
    ("range(1,4)", IntDistribution(1, 3)),
    ("range(1,2)", IntDistribution(1, 1)),
    ("range(0,10,3)", IntDistribution(0, 9, step=3)),
    ("range(10,0,-3)", IntDistribution(1, 10, step=3)),
    ("range(0,1,0.1)", FloatDistribution(0, 0.9, step=0.1)),
    ("range(0,0.9,0.3)", FloatDistribution(0, 0.6, step=0.3)),
    ("range(1,0,-0.5)", FloatDistribution(0.5, 1, step=0.5)),
    ("float(range(1,4))", FloatDistribution(1, 3, step=1)),
    ("shuffle(range(1,4))", IntDistribution(1, 3)),
    ("tag(log,range(1,65))", IntDistribution(1, 64, log=True)),
    ("choice(32,64,128)", CategoricalDistribution([32, 64, 128])),
    ("a,b,c", CategoricalDistribution(["a", "b", "c"])),
    ("null,1", CategoricalDistribution([None, 1])),
    ("choice(true,false)", CategoricalDistribution([True, False])),
    ("choice(sgd,'one two',1.5)", CategoricalDistribution(["sgd", "one two", 1.5])),
    ("choice([1,2],[3])", CategoricalDistribution(["[1,2]", "[3]"])),
    ("choice({a:1},{a:2})", CategoricalDistribution(["{a:1}", "{a:2}"])),
    ("choice(1,1,2)", CategoricalDistribution([1, 2])),
    ("sort(3,1,2)", CategoricalDistribution([1, 2, 3])),
    ("shuffle(b,a,c,e,d)", CategoricalDistribution(["b", "a", "c", "e", "d"])),
    ("float(choice(1,2))", CategoricalDistribution([1.0, 2.0])),
    ("str(choice(1,2))", CategoricalDistribution(["1", "2"])),
]


@pytest.mark.parametrize(
    ("text", "expected"), DISTRIBUTIONS, ids=[text for text, _ in DISTRIBUTIONS]
)
def test_each_sweep_of_hydra_becomes_a_distribution_of_optuna(
    text: str, expected: BaseDistribution
) -> None:
    found = make_space({}, [f"x={text}"]).distributions["x"]
    assert found == expected
    if isinstance(found, CategoricalDistribution) and isinstance(expected, CategoricalDistribution):
        assert [type(one) for one in found.choices] == [type(one) for one in expected.choices]


@pytest.mark.parametrize(
    "text",
    ["range(1,4)", "range(0,10,3)", "range(10,0,-3)", "range(0,2,0.25)", "choice(1,2,a)", "x,y"],
)
def test_a_grid_has_the_values_that_hydra_enumerates(text: str) -> None:
    override = OverridesParser.create().parse_override(f"x={text}")
    distribution = make_space({}, [f"x={text}"]).distributions["x"]
    assert sorted(map(str, override.sweep_iterator())) == sorted(
        map(str, grid_values(distribution) or [])
    )


def test_a_range_excludes_its_end_in_decimal_arithmetic() -> None:
    assert grid_values(make_space({}, ["x=range(0,0.9,0.3)"]).distributions["x"]) == [0, 0.3, 0.6]
    assert grid_values(make_space({}, ["x=range(0,1,0.1)"]).distributions["x"]) == [
        i / 10 for i in range(10)
    ]


@pytest.mark.parametrize("text", ["interval(0,1)", "tag(log,interval(1,2))"])
def test_an_interval_of_floats_has_infinitely_many_values(text: str) -> None:
    space = make_space({}, [f"x={text}", "y=1,2"])
    assert grid_values(space.distributions["x"]) is None
    assert space.size is None


def test_the_size_of_a_space_is_the_product_of_its_choices() -> None:
    assert make_space({}, ["x=1,2", "y=range(0,3)", "z=a,b,c,d"]).size == 2 * 3 * 4


MISTAKES = [
    (
        "x=interval(2,1)",
        "x=interval(2,1) cannot be sampled: the upper bound 1 is less than the lower bound 2.",
    ),
    ("x=interval(1,inf)", "both bounds must be finite."),
    ("x=interval(nan,1)", "both bounds must be finite."),
    ("x=tag(foo,interval(1,2))", "the only supported tag is log, found foo."),
    ("x=tag(log,foo,interval(1,2))", "the only supported tag is log, found foo"),
    ("x=tag(foo,range(1,3))", "the only supported tag is log, found foo"),
    ("x=tag(log,choice(1,2))", "a choice cannot have a tag."),
    ("x=tag(log,interval(0,1))", "`low > 0` must hold"),
    ("x=range(5,1)", "the range from 5 to 1 in steps of 1 is empty (the end is excluded)."),
    ("x=range(1,1)", "is empty (the end is excluded)."),
    ("x=range(1,3,0)", "the step must not be 0."),
    ("x=range(0,1,0.0)", "the step must not be 0."),
    ("x=tag(log,range(1,9,2))", "a logarithmic range cannot have a step"),
    ("x=tag(log,range(0.1,1,0.1))", "a logarithmic range cannot have a step"),
    ("model=glob(rnn*)", "model=glob(rnn*) cannot be sampled: at least one choice is required."),
    (
        "x=choice()",
        "x=choice() is not a valid override: ValueError while evaluating 'choice()': empty choice ",
    ),
    (
        "x=choice(1",
        "x=choice(1 is not a valid override: no viable alternative at input 'choice(1'.",
    ),
    (
        "hydra.sweeper.n_trials=1,2",
        "hydra.sweeper.n_trials is a Hydra setting and cannot be swept over",
    ),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_an_override_that_cannot_be_sampled_is_an_error_of_one_line(
    text: str, message: str, app: App
) -> None:
    with pytest.raises(SweepError) as caught:
        app.space(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_glob_chooses_among_the_configs_of_a_group(app: App) -> None:
    space = app.space("model=glob(*)")
    assert space.distributions == {"model": CategoricalDistribution(["cnn", "mlp", "mlp_wide"])}
    assert app.space("model=glob(mlp*)").distributions == {
        "model": CategoricalDistribution(["mlp", "mlp_wide"])
    }
    assert app.space("model=glob(*,exclude=mlp*)").distributions == {
        "model": CategoricalDistribution(["cnn"])
    }
    assert space.overrides({"model": "mlp_wide"}) == ["model=mlp_wide"]


def test_an_override_without_a_sweep_is_the_same_in_all_trials() -> None:
    given = ["y=3", "+z='a b'", "++w=[1,2]", "~v", "model=cnn", "u=null", "x=1,2", "t='x=1,2'"]
    space = make_space({}, given)
    assert list(space.distributions) == ["x"]
    assert space.fixed == ["y=3", "+z='a b'", "++w=[1,2]", "~v", "model=cnn", "u=null", "t='x=1,2'"]
    assert [parsed(text) for text in space.fixed if "=" in text and text[0] != "~"] == [
        parsed(text) for text in given if "=" in text and text not in ("~v", "x=1,2")
    ]


PARAMS: dict[str, Any] = {
    "a": "choice(1,2)",
    "b": "tag(log, interval(1e-3, 1))",
    "c": 3,
    "d": None,
    "e": True,
    "f": [1, 2],
    "g": {"k": 1},
    "h": 0.5,
}


def test_params_and_overrides_mean_the_same() -> None:
    space = make_space(OmegaConf.create(PARAMS), [])
    assert space.distributions == {
        "a": CategoricalDistribution([1, 2]),
        "b": FloatDistribution(1e-3, 1, log=True),
    }
    assert [parsed(text) for text in space.fixed] == [PARAMS[key] for key in "cdefgh"]


@pytest.mark.parametrize("typed", ["x=interval(0,1)", "+x=interval(0,1)", "++x=interval(0,1)"])
def test_the_command_line_replaces_params(typed: str) -> None:
    space = make_space({"x": "choice(1,2)", "y": "choice(3,4)"}, [typed])
    key = typed.partition("=")[0]
    assert dict(space.distributions) == {
        key: FloatDistribution(0, 1),
        "y": CategoricalDistribution([3, 4]),
    }
    assert make_space({"x": "choice(1,2)"}, ["x=5"]).fixed == ["x=5"]


def test_an_added_key_keeps_its_plus() -> None:
    space = make_space({}, ["+new=choice(1,2)", "++other=range(0,2)", "model@net=choice(a,b)"])
    assert list(space.distributions) == ["+new", "++other", "model@net"]
    assert space.overrides({"+new": 2, "++other": 0, "model@net": "a"}) == [
        "+new=2",
        "++other=0",
        "model@net=a",
    ]


# --- parameters as overrides

CHOICES = [
    "plain",
    "one two",
    "  edges  ",
    "a,b",
    "a=b",
    "[1,2]",
    "{a:1}",
    "it's",
    'say "so"',
    "back\\slash",
    "ends in \\",
    "\\'both",
    "(1)",
    "choice(1,2)",
    "1",
    "-0.5",
    "1e-3",
    "true",
    "False",
    "null",
    "NULL",
    "nan",
    "inf",
    "-inf",
    "",
    "a:b",
    "über",
    "https://a.b/c?d=e#f",
    "/path/with-dash_and.dot",
    "-leading",
    "tab\there",
    "*",
    "%",
    "${x}",
]


@pytest.mark.parametrize("text", CHOICES)
def test_a_text_chosen_by_a_function_of_the_user_survives_as_an_override(text: str) -> None:
    (override,) = Space().overrides({"x": text})
    assert parsed(override) == text
    assert type(parsed(override)) is str


def quoted(text: str) -> str:
    (override,) = Space().overrides({"x": text})
    return override.removeprefix("x=")


@pytest.mark.parametrize("text", [text for text in CHOICES if text != "plain"])
def test_a_chosen_text_survives_as_an_override(text: str) -> None:
    space = make_space({}, [f"x=choice(plain,{quoted(text)})"])
    distribution = space.distributions["x"]
    assert isinstance(distribution, CategoricalDistribution)
    assert distribution.choices == ("plain", text)
    assert [
        parsed(override)
        for choice in distribution.choices
        for override in space.overrides({"x": choice})
    ] == [
        "plain",
        text,
    ]


@pytest.mark.parametrize(
    "value",
    [True, False, None, 0, -7, 10**20, 0.1, 1e-05, -2.5e300, 1 / 3, 5e-324, 1.0, math.inf],
    ids=repr,
)
def test_a_number_survives_as_an_override(value: Any) -> None:
    (override,) = Space().overrides({"x": value})
    assert parsed(override) == value
    assert type(parsed(override)) is type(value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("choice([1,2],[])", [[1, 2], []]),
        ("choice([a,'b c'],['1'])", [["a", "b c"], ["1"]]),
        ("choice({a:1,b:[x,y]},{})", [{"a": 1, "b": ["x", "y"]}, {}]),
        ("choice({a:'q,r'},{a:null})", [{"a": "q,r"}, {"a": None}]),
        ("[1,2],3,null,'null'", [[1, 2], 3, None, "null"]),
        ("choice(1,'1')", [1, "1"]),
        ("choice(1,true)", [1, True]),
        ("choice(0,false,0.0,'0','false')", [0, False, 0.0, "0", "false"]),
        ("choice(1.0,1,1,[2])", [1.0, 1, [2]]),
        ("shuffle(a,b,c,d,e,f,g)", list("abcdefg")),
    ],
)
def test_a_choice_survives_as_an_override(text: str, values: list[Any]) -> None:
    space = make_space({}, [f"x={text}"])
    distribution = space.distributions["x"]
    assert isinstance(distribution, CategoricalDistribution)
    found = [
        parsed(override)
        for choice in distribution.choices
        for override in space.overrides({"x": choice})
    ]
    assert found == values
    assert [type(one) for one in found] == [type(one) for one in values]


def test_the_configuration_of_a_trial_has_the_suggested_values(app: App) -> None:
    space = app.space(
        "x=interval(0,1)",
        "size=int(interval(1,8))",
        "name=choice(plain,'a, b')",
        "model=glob(*)",
        "+extra=[1,2],[3]",
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    config = app.config("x=interval(0,1)")
    for _ in range(10):
        trial = study.ask()
        suggest(trial, space)
        params = trial.params
        assert params.keys() == space.distributions.keys()
        composed = app.loader.load_sweep_config(config, space.overrides(params))
        assert composed.x == params["x"]
        assert composed.size == params["size"]
        assert composed.name == params["name"]
        assert composed.model.kind == params["model"]
        assert list(composed.extra) == {"[1,2]": [1, 2], "[3]": [3]}[params["+extra"]]
    assert {trial.params["model"] for trial in study.trials} == {"cnn", "mlp", "mlp_wide"}


# --- descriptions


def test_the_description_of_a_space_shows_every_difference() -> None:
    texts = [
        "interval(0,1)",
        "interval(0,1.0000001)",
        "tag(log,interval(1,2))",
        "interval(1,2)",
        "int(interval(1,2))",
        "range(0,1,0.1)",
        "range(1,1000001)",
        "range(1,1000002)",
        "range(1,10,3)",
        "a,b",
        "b,a",
    ]
    words = [make_space({}, [f"x={text}"]).describe()["x"] for text in texts]
    assert len(set(words)) == len(texts)
    assert words[0] == "float from 0 to 1"
    assert words[2] == "float from 1 to 2, log"
    assert words[8] == "int from 1 to 7 in steps of 3"
    assert words[9] == "choice(a, b)"


def test_the_description_of_a_shuffled_choice_is_always_the_same() -> None:
    text = f"x=shuffle({','.join('abcdefghijklmnop')})"
    assert make_space({}, [text]).describe() == make_space({}, [text]).describe()


def test_the_first_configuration_has_the_first_choices_and_the_low_ends() -> None:
    space = make_space({}, ["x=interval(2,3)", "y=range(10,0,-3)", "z=b,a"])
    assert first_params(space) == {"x": 2, "y": 1, "z": "b"}


@pytest.mark.parametrize("path", ["nowhere.at_all", "math.no_such_thing", "plain", ""])
def test_a_missing_function_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(
        SweepError, match=r"hydra\.sweeper\.custom_search_space=.* cannot be imported"
    ):
        custom_function(path)


def test_a_function_is_found_by_its_path() -> None:
    assert custom_function(None) is None
    found: object = custom_function("nntrain.sweeps.spec.space.suggest")
    assert found is suggest
