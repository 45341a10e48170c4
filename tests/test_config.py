"""Settings: what is given wins over the method, and the method over the defaults."""

from dataclasses import replace

import pytest

from icft_lite.config import METHODS, ICFTConfig
from icft_lite.errors import ICFTError


@pytest.mark.parametrize("method", METHODS)
def test_a_method_stands_in_the_place_of_the_defaults(method):
    config, usual = ICFTConfig(method=method), ICFTConfig()
    changed = {name for name, value in vars(config).items() if value != getattr(usual, name)} - {"method"}
    assert changed == {name for name, value in METHODS[method].items() if value != getattr(usual, name)}
    assert all(getattr(config, name) == value for name, value in METHODS[method].items())


def test_a_setting_that_is_given_wins_even_where_it_is_the_default():
    assert ICFTConfig(method="qlora").order == "random"
    for config in (
        ICFTConfig(method="qlora", order="easy_to_hard"),
        ICFTConfig.from_dict({"order": "easy_to_hard", "method": "qlora"}),
    ):
        assert config.order == "easy_to_hard" and config.memory_share == 0
    assert replace(config, seed=3) == ICFTConfig(method="qlora", order="easy_to_hard", seed=3)


def test_a_config_comes_back_from_what_a_report_keeps():
    config = ICFTConfig(method="no_ltm", order="random", signals=("ifd", "length"), epsilon=0.5)
    assert ICFTConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "given, what",
    [
        (dict(method="magic"), "method: 'magic' is unknown"),
        (dict(memory_share=0.6, ring_share=0.4), "leave room for new rows"),
        (dict(order="backwards"), "order: 'backwards' is not possible"),
        (dict(signals=("loss", "mood")), "choose among loss"),
        (dict(learning_rate=0), "give a number above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(given, what):
    with pytest.raises(ICFTError, match=what) as caught:
        ICFTConfig(**given)
    assert "\n" not in str(caught.value)
